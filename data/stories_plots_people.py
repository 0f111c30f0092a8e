"""Plots about people: a contest, a quarrel, a promise, sharing, a fear, building together."""

from __future__ import annotations

from stories_world import Story, forms

CONTESTS = (
    # name, where, to practise, practising, what goes wrong for the careless
    ("running race", "meadow", "run", "running", "tripped over a stone"),
    ("boat race", "river", "row", "rowing", "steered into the grass"),
    ("kite contest", "hill", "fly a kite", "flying a kite", "caught the kite in a tree"),
    ("swimming race", "harbour", "swim", "swimming", "swallowed too much water"),
    ("baking contest", "market", "bake", "baking", "burned the cake"),
    ("singing contest", "square", "sing", "singing", "forgot the words"),
    ("drawing contest", "school", "draw", "drawing", "dropped the paint"),
    ("climbing contest", "orchard", "climb", "climbing", "slid down the trunk"),
    ("spelling contest", "library", "spell", "spelling", "forgot the letters"),
    ("sack race", "park", "jump in a sack", "jumping in a sack", "fell flat on the grass"),
    ("sand castle contest", "beach", "build towers", "building towers", "built too near the waves"),
    ("dancing contest", "barn", "dance", "dancing", "slipped on the boards"),
)  # fmt: skip


def contest(story: Story) -> None:
    """Two rivals; the one who practises wins, unless kindness stops to help the other."""
    world, hero, rng = story.world, story.hero, story.world.rng
    name, where, verb, verbing, slip = rng.choice(CONTESTS)
    place = world.place(where)
    rival = world.child()
    coach = world.adult()
    prize = world.thing(None)
    story.want, story.place, story.thing = f"win the {name}", place.noun, prize.noun
    story.reason = f"the prize was a {prize.adjective} {prize.noun}"
    story.say("contest_begin", C=name, P=place, T=prize, R=rival, verb=forms(verb, ing=verbing))
    story.say("trait")
    if hero.trait in ("lazy", "proud"):
        story.say("contest_idle")
        story.say("contest_rival_works")
        story.say("contest_slip", slip=slip)
        story.say("contest_lost")
        story.say("contest_lesson")
        winner, story.obstacle = rival, f"{hero.name} did not practise"
    elif hero.trait == "kind":
        story.say("contest_practise", F=coach)
        story.say("contest_rival_slips", slip=slip)
        story.say("contest_stop")
        world.do("help", hero, rival)
        story.say("contest_kind_end", W=rng.choice(("an old man", "a small girl", "a tall woman")))
        winner, story.obstacle = None, f"{rival.name} {slip}"
        story.helper = hero.name
    else:
        story.say("contest_fail", slip=slip)
        story.say("contest_practise", F=coach)
        world.do("teach", coach, hero)
        story.maybe("contest_rival_boasts")
        story.say("contest_win")
        story.say("contest_end")
        winner, story.obstacle, story.helper = hero, f"{hero.name} {slip} at first", coach.name
    if winner is not None:
        prize.owner = prize.holder = winner
        story.outcome = f"{winner.name} won the {prize.noun}"
    else:
        story.outcome = f"{hero.name} stopped to help {rival.name} and did not win the {prize.noun}"


CONTEST = """
contest_begin:
    [when], (a sign was put up|a sign hung|[H] saw a sign) [P.in]. there would be a [C], and the prize was [T.a]. [H] (wanted to win|longed to win|could think of nothing else).
    there was to be a [C] [P.in], and the winner would get [T.a]. "I (want to|will|must) win that [T.noun]," said [H] [when].
    [when], the teacher told the (class|children) about the [C] [P.in]. [H] wanted to win it, because the prize was [T.a].
contest_idle:
    [H] did not practise at all. "I can [verb] (better than anyone|in my sleep|well enough)," [H.he!] (said|yawned|laughed).
    "why should I practise?" (said|laughed|asked) [H] and (lay down in the sun|went to sleep|ate a plum).
    (all week|for days) [H] (lay in the grass|slept late) and never once thought of [verb.ing].
contest_rival_works:
    but [R], (a quiet [R.kid]|who lived next door|a [R.kid] from the next street), was [verb.ing] every (day|morning|evening)(, even in the rain| until dark| before school).
    meanwhile [R] got up (early|with the birds) to [verb], and each day [R.he] (was|got) a little better.
contest_slip:
    (then|at last) the day of the [C] came. [H] (started too late|was soon tired) and [slip].
    on the (great|big) day [H] (smiled at everyone|was out of breath), and in the middle [H.he!] [slip].
contest_lost:
    [R] kept calm and won [T]. [H] (stood there|looked down) with (red cheeks|empty hands).
    so it was [R] who took [T] home, and (the crowd|everyone) cheered for [R.him]. $sigh.
contest_lesson:
    (then|after that|later) [H] (went to|walked up to) [R] and said, "you (worked hard|were better than me). (will you|can you) practise with me (next time|tomorrow)?" and [R] said yes.
    "a prize does not (come to|fall on) those who sleep," (thought|said) [H], and the next (day|morning) [H.he!] began to (practise|work).
    [H] learned (a hard|an important) lesson that day, and (the next year|from then on) nobody (practised more|worked harder).
contest_fail:
    at the first try, [H] [slip], and (some children|the others) laughed. $sigh.
    "I will never win," said [H], who [slip] (at the first try|the first time|on the first day).
contest_practise:
    but [F] (believed in [H.him]|knew how to win|had once won it too), and (every day|day after day|all week|each morning) they practised [verb.ing] [P.in].
    [H] asked [F] for advice, and every (day|evening) (for a week|for two weeks|) [H.he!] practised [verb.ing] (until [H.he!] ached|a little longer|a bit more).
    with the help of [F], [H] was [verb.ing] (every day|early and late) (in sun and rain|without a break|for two whole weeks).
contest_rival_boasts:
    on the day, [R] (laughed|boasted), "(go home|you have no chance|nobody beats me), [H.name]." [H] (said nothing|only smiled|took a deep breath).
    many (people|children) came, and the best of them was [R]. [H.his] (knees shook|heart beat like a drum|hands were cold).
contest_win:
    [H] (thought of|remembered) [F.his] words, (stayed calm|did not hurry|kept [H.his!] eyes open), and (won|was the best|came first) by a (hair|little|nose)!
    (step by step|bit by bit) [H] (took|got) the lead, and in the end [H.he!] (won|was first|beat them all)! the crowd (cheered|clapped).
contest_end:
    [H] took home [T] and (shared the joy with|hugged|showed it to) [F]. "(all that work was worth it|you never gave up)," [F.he!] said.
    "well done," said [R], and (shook [H.his] hand|meant it). [T] (shone|lay|stood) (by [H.his] bed|on [H.his] shelf|in [H.his] window) (for years|from that day on).
contest_rival_slips:
    at the [C], [H] was ahead when [R], (the best of the others|who was next to [H.him]), [slip] and (cried|was hurt).
    (halfway|near the end) [H] was first, but then [R] [slip] and (called for help|could not go on).
contest_stop:
    [H] (looked at|thought of) the prize, and then at [R]. [H.he] stopped and (helped|stayed with) [R] (while the others went on|until all was well).
    "(win or help|the [T.noun] or [R.name])?" thought [H]. [H.he] turned back and (gave [R] a hand|dried [R.his] tears).
contest_kind_end:
    [W] won [T], but [R.name] (became [H.his] best friend|never forgot it).
    the [T.noun] went to [W]. still, [H] (went home happy|was not sad|did not mind), for [R.name] (walked beside [H.him]|was a friend now|held [H.his] hand).
    [W] got the [T.noun], and [H.name] got (a friend|a hug from [R]). (that was worth more|[H.he] liked that better).
"""


FRAGILE = tuple("kite drum doll puppet boat whistle basket flute box umbrella spoon comb".split())


def quarrel(story: Story) -> None:
    """Two friends fight over a thing, it breaks, each is lonely, one makes peace."""
    world, hero, rng = story.world, story.hero, story.world.rng
    friend = world.friend()
    elder = world.adult()
    place = world.place(but=("library",))
    giver = world.adult(jobs=False)
    thing = world.thing(friend, FRAGILE)
    do = rng.choice(place.doing)
    story.want, story.place, story.thing = f"make peace with {friend.name}", place.noun, thing.noun
    story.reason, story.helper = f"{hero.name} felt lonely without {friend.name}", elder.name
    story.obstacle = f"they had pulled at the {thing.noun} until it broke"
    story.say("quarrel_begin", F=friend, T=thing, P=place, do=forms(do[0], ing=do[1]), G=giver)
    story.maybe("trait")
    world.go(hero, place)
    world.go(friend, place)
    world.damage(hero, thing)
    story.say("quarrel_fight")
    story.say("quarrel_alone")
    story.say("quarrel_advice", E=elder)
    world.do("forgive", friend, hero)
    story.say("quarrel_peace")
    world.mend(elder, thing)
    story.say("quarrel_mend")
    story.say("quarrel_end")
    story.outcome = f"{hero.name} and {friend.name} mended the {thing.noun} and shared it"


QUARREL = """
quarrel_begin:
    [when], [H] and [F] were [do.ing] [P.in]. [F.name] had [T.a] from [G], and [H] wanted (to have it too|it for [H.himself!]|to hold it).
    [H] and [F] (always|often) played [P.in]. [when], [F.name] brought [T.a], a present from [G.name].
quarrel_fight:
    "it is my turn!" (cried|shouted) [H]. "no, it is mine!" (cried|shouted) [F]. they both pulled (hard|with all their might|this way and that), and the [T.noun] (broke|came apart|went crack).
    [H] (pulled|tugged) at [T], and [F] pulled back, (harder and harder|again and again) until (it broke|it was in two pieces).
    "give it to me!" said [H]. "you never (ask|wait|say please)!" said [F]. (one pull|a push and a pull), and the [T.noun] was broken.
quarrel_alone:
    (for two days|for three days|all week) they did not (speak|say a word|look at each other). [H] (played|sat|walked) alone (and felt lonely|, lonely and sad|and was lonely).
    [F.name] (went|ran|walked) home (angry|in tears|without a word). the next day [H] tried [do.ing] alone, but it was (too quiet|dull|no fun), and [H.he!] felt lonely.
    "I do not need [F.name]," [H] (thought|told the others). but (by evening|the next day|after three days) [H.he!] (missed [F.his] laugh and |)felt lonely.
quarrel_advice:
    [E] saw [H] (alone|sitting on the steps|looking sad) and (said|told [H.him]), "(someone must say sorry first|a friend is worth more than a [T.noun]|two stubborn goats both fall off the bridge)."
    "what (is wrong|happened)?" asked [E]. [H] told [E.him] (all about it|everything), and [E] said, "(go|then go) and (say that to [F.name]|make peace)."
quarrel_peace:
    [H] $went to [F] with a (warm bun|red apple|flower|piece of cake) and said, "I am sorry(| that I pulled| about the [T.noun])." "(me too|so am I|I am sorry too)," said [F].
    it was (hard|not easy), but [H] (knocked at the door|went over) and said, "I was wrong. (will you|can you) forgive me?" [F] (nodded|smiled|hugged [H.him]) (at once|and wiped away a tear|and let [H.him] in).
quarrel_mend:
    with (glue|thread and glue|string and glue|needle and thread) from [E], they (mended|fixed) the [T.noun] (together|side by side). (it was not as good as new|you could still see the crack), but (that did not matter|nobody cared).
    [E] helped them to mend the [T.noun], and it (held|worked) (even better than before|well enough|as well as ever).
quarrel_end:
    from then on they (took turns|shared it), ([H.name] on Mondays and [F.name] on Tuesdays|[H.name] in the morning and [F.name] after lunch|[F.name] one day and [H.name] the next).
    "you (take it|go) first," said [H]. "no, you (take it|go) first," said [F], and they (both laughed|laughed until it hurt).
    (soon|that evening) they were [do.ing] [P.in] again, (arm in arm|as before|and the [T.noun] lay between them).
"""

PROMISES = (
    # to do, doing (past), where, result when kept, result when broken
    ("feed the hens", "fed the hens", "barn", "there were ten eggs in the straw", "the hungry hens had run away"),
    ("water the roses", "watered the roses", "garden", "the roses were red and full", "the roses hung their heads"),
    ("close the gate", "closed the gate", "meadow", "all the sheep were safe", "the sheep were all over the road"),
    ("milk the goat", "milked the goat", "barn", "there was fresh cheese on the table", "the goat cried loudly"),
    ("keep the fire going", "kept the fire going", "mill", "the room was warm and bright", "the house was as cold as ice"),
    ("watch the bread", "watched the bread", "kitchen", "the bread was brown and fresh", "the bread was burned and black"),
    ("feed the kitten", "fed the kitten", "attic", "the kitten was round and happy", "the kitten was thin and cried"),
    ("look after the boat", "looked after the boat", "harbour", "the boat was dry and safe", "the waves had carried the boat away"),
    ("pick the plums", "picked the plums", "orchard", "ten baskets stood in a row", "birds had eaten the plums"),
    ("sweep the steps", "swept the steps", "school", "the steps were clean and dry", "a visitor had slipped on the wet leaves"),
    ("wind the big clock", "wound the big clock", "square", "the clock had not missed a minute", "the clock stood still and all were late"),
    ("put out the lamp", "put out the lamp", "library", "every book was safe", "the lamp had burned a hole in the table"),
)  # fmt: skip
TEMPTATIONS = (
    ("come swimming", "swim"), ("come to the fair", "see the fair"), ("come and play ball", "play ball"),
    ("come fishing", "go fishing"), ("come and fly kites", "fly kites"), ("come to the puppet show", "see the puppets"),
    ("come and see the new puppies", "see the puppies"), ("come and slide in the hay", "slide in the hay"),
)  # fmt: skip


def promise(story: Story) -> None:
    """The hero has promised something and is tempted away; the trait decides."""
    world, hero, rng = story.world, story.hero, story.world.rng
    owner = world.adult()
    friend = world.friend()
    task, done, where, kept, broken = rng.choice(PROMISES)
    ask, fun = rng.choice(TEMPTATIONS)
    story.want, story.place = f"keep a promise to {owner.name}", where
    trip = rng.choice(TRIPS)
    story.reason = f"{owner.name} had to {trip}"
    story.obstacle, story.thing = f"{friend.name} wanted {hero.name} to {fun}", task.split()[-1]
    story.say("promise_begin", O=owner, task=forms(task, ed=done), W=f"the {where}", trip=trip)
    story.say("trait")
    story.say("promise_tempt", F=friend, ask=ask, fun=fun)
    if hero.trait in ("lazy", "hasty", "careless"):
        story.say("promise_break")
        story.say("promise_bad", result=broken)
        story.say("promise_repair")
        world.do("tell", hero, owner, "the truth")
        story.say("promise_sorry_end")
        story.outcome = f"{hero.name} forgot, and {broken}"
    else:
        story.say("promise_keep")
        world.do("help", friend, hero)
        story.helper = friend.name
        story.say("promise_friend")
        story.say("promise_good", result=kept)
        story.say("promise_end")
        story.outcome = f"{hero.name} kept the promise, and {kept}"


TRIPS = (
    "go to town", "visit a sick friend", "sell wool at the fair", "see the doctor", "fetch a new wheel",
    "help a neighbour", "go to a wedding", "buy seeds in town", "take a train to the sea",
)  # fmt: skip

PROMISE = """
promise_begin:
    [when], [O] had to [trip]. "will you [task] (for me|while I am away)?" [O.he!] asked [H]. "(yes|of course), I promise," said [H].
    [O] had to [trip] (for a day|until evening|for two days), so [H] promised to [task]. "(do not forget|I count on you|it is important)," [O.he!] said [when].
    "I must [trip]," [O] told [H] [when]. "please [task] (every day|until I am back)." [H] (promised|gave [H.his!] word)(| and shook hands).
promise_tempt:
    but soon [F] (came running|stood at the door|called over the wall). "[ask]!" [F.he!] (said|cried|shouted). [H] (wanted very much to|would have loved to|longed to) [fun].
    "[ask](, [H.name]| with us)!" (called|cried) [F] (from the street|at the window|an hour later). (oh, how|how) [H] wanted to [fun]!
promise_break:
    "(just for a moment|only an hour|the work can wait|I can do it later)," (thought|said) [H], and off they went to [fun]. the promise was (soon |)forgotten.
    [H] (looked at [W]|thought of [W]), and then at [F]. "(later is soon enough|it will be all right)," [H.he!] said and ran (off|out|away) to [fun].
promise_bad:
    when [H] came back to [W], it was (late|dark|too late), and [result]. $sigh.
    it was (great fun|a fine day), but (in the evening|at sunset) [H] ran to [W], and oh no, [result]!
promise_repair:
    [H] (worked|ran about) (all night|until [H.his!] hands hurt) to put things right, and [F], who was sorry too, (helped|held the lamp|came along).
    "I must (make it good|put this right)," said [H], and [H.he!] did not (sleep|stop|rest) until it was done.
promise_sorry_end:
    (in the morning|when [O] came home), [H] said, "I broke my promise. I am sorry." [O] (was quiet for a while|looked at [H.him]) and then gave [H.him] (a new chance|another try).
    [H] told [O] (the truth|what had happened) and promised to [task] for a (week|month). (this time|and now) [H.he!] kept [H.his!] word.
promise_keep:
    but [H] shook [H.his!] head. "(first|no, first) I have to [task]," [H.he!] said. "(I gave my word|a promise is a promise|[O.name] counts on me)."
    [H] thought of [O] and (sighed|took a deep breath|stayed). "not (now|yet)," [H.he!] said. "I promised to [task]."
promise_friend:
    so [H] went to [W] and [task.ed], and [F] (helped|came along). (with two it went fast|it was half the work), and there was still time to [fun].
    [F] (grumbled|was cross) at first, but then [F.he!] (came along|went along) to [W] and helped. when they had [task.ed], they (still |)went to [fun].
promise_good:
    when [O] came back, [result]. "(I knew it|I knew I could trust you|well done)," [O.he!] said.
    [O] (came home|came back) (late|tired|the next day), went to [W], and saw that [result].
promise_end:
    [O] (brought|gave) [H.him] (a bag of nuts|a silver coin|a paper star|some sweets) (from the trip|as a thank you) and [H] shared it with [F].
    "you can always count on [H.name]," said [O], and [H] (blushed|stood a little taller|smiled at [F]).
    $night [H] (was tired|lay in bed) but (happy|$glad), for the promise to [O] was kept.
"""

FOODS = (
    ("plums", "sweet"), ("apples", "red"), ("cherries", "ripe"), ("buns", "warm"), ("nuts", "brown"),
    ("berries", "blue"), ("pears", "yellow"), ("cakes", "small"), ("rolls", "fresh"), ("carrots", "long"),
)  # fmt: skip
TROUBLES = (
    ("lost the way in the fog", "knew every path and led {him} home"),
    ("fell into a ditch", "pulled {him} out with strong hands"),
    ("got a thorn in one foot", "took it out with care"),
    ("tore a big hole in one sleeve", "had a needle and thread"),
    ("stood before a locked gate", "had the key to it"),
    ("was chased by a goose", "drove it away with a stick"),
    ("was caught in a storm", "opened a door and let {him} in"),
    ("got one boot stuck in the mud", "pulled until it came out"),
)  # fmt: skip


HUNGRY = (
    "the shepherd",
    "the fisherman",
    "the weaver",
    "Mr Stone",
    "Mrs Moss",
    "Mrs Bell",
    "Mr Hill",
)


def share(story: Story) -> None:
    """The hero has food and meets someone hungry; later the hero is the one in need."""
    world, hero, rng = story.world, story.hero, story.world.rng
    food, kind = rng.choice(FOODS)
    place = world.place("market", "forest", "hill", "river", "meadow", "park", "station", "harbour")
    other = world.child() if rng.random() < 0.6 else world.adult(only=HUNGRY)
    trouble, rescue = rng.choice(TROUBLES)
    rescue = rescue.replace("{him}", "[H.him]")
    story.want = f"eat {hero.his} {food} {place.at} the {place.noun}"
    story.place, story.thing = place.noun, food
    story.helper, story.obstacle = other.name, f"{hero.name} {trouble}"
    story.say("share_begin", P=place, food=food, kind=kind)
    story.say("trait")
    story.say("share_meet", F=other)
    if hero.trait == "greedy":
        world.do("refuse", hero, other, food)
        story.say("share_refuse")
        story.say("share_trouble", trouble=trouble)
        story.say("share_rescue_greedy", rescue=rescue)
        story.say("share_greedy_end")
        story.outcome = f"{hero.name} was sorry and shared the {food} with {other.name}"
    else:
        world.do("share", hero, other, food)
        story.say("share_give")
        story.say("share_trouble", trouble=trouble)
        story.say("share_rescue", rescue=rescue)
        story.say("share_end")
        story.outcome = f"{hero.name} shared the {food} and {other.name} helped in return"
    world.do("help", other, hero)


SHARE = """
share_begin:
    [when], [H] $went [P.to] with a (bag|basket|box) of [kind] [food] for (lunch|the day|a picnic). [H.he] could (hardly wait to eat|almost taste) them.
    [when], [H] filled a (bag|basket|hat|box) with [kind] [food] and took it [P.to] to (eat in peace|have a picnic|enjoy them).
    [H] had a (bag|basket|box) full of [kind] [food], and [when] [H.he!] $set_off [P.to] to eat them.
share_meet:
    [P.in] sat [F.name], who had an empty bag. "I am so hungry," [F.he!] said.
    "that smells good," said [F.name], who sat [P.in]. "(may I have|could you spare) (one|a few|some)? I had no breakfast."
    there [H.he!] met [F.name], who looked (pale|tired|thin) and (hungry|weak). "would you share your [food]?" [F.he!] asked.
share_give:
    [H] (looked at|counted) the [food] and (did not think long|smiled). "half for you and half for me," [H.he!] said, and they (ate|sat down) (together|side by side|in the shade).
    "(take as many as you like|of course|sit down with me)," said [H], and [F] (ate|laughed) until the [food] were (nearly |all |)gone.
share_refuse:
    "no, (they are all mine|I need them all|go and find your own)," said [H]. [H.he] (turned away|sat behind a tree) and ate (more|faster) (than was good for [H.him!]|until it hurt).
    [H] (held the [food] tight|hid the [food] behind [H.his!] back). "I have (only a few|none to spare)," [H.he!] lied, and [F] (went away hungry|said nothing|walked away).
share_trouble:
    (an hour later|on the way home|later that day|in the afternoon), [H] [trouble]. "(help|oh no|is anyone there)!" (cried|called) [H].
    but (before evening|on the way back) [H] [trouble], and (no one was near|the road was empty|it began to get dark). $sigh.
share_rescue:
    who should (come by|hear it) but [F]? [F.name] [rescue]. "you shared your [food] with me," [F.he!] said.
    then (steps came near|a voice called|a shape came near), and it was [F], who [rescue].
share_rescue_greedy:
    the one who came was [F]. [F.he] (could have walked on|thought for a moment), but [F.he!] [rescue]. [H.his] cheeks (burned|turned red).
    then (steps came near|someone called), and it was [F]. (all the same|without one hard word), [F.he!] [rescue]. [H] (was ashamed|could not look up).
share_end:
    "I gave half of my [food] and got a whole friend," (laughed|said) [H]. (they walked home together|from then on they met there every week).
    after that, [H] always (took|carried) a few more [food] (than [H.he!] needed|for [F]|in case someone was hungry).
    the two (became friends|went home arm in arm|were friends from that day), and the [food] had never (tasted so good|been so well spent).
share_greedy_end:
    "here," said [H] (softly|at last), and (held out|gave [F.him]) the rest of the [food]. "I should have (shared|done this) (before|at once)."
    the next day [H] (brought|carried) a full bag of [food] to [F] and said, "these are for you. I was (too greedy|wrong)."
    from (then|that day) on, [H] (cut everything in two|shared), and (found|saw) that [food] taste better (with a friend|when two eat them).
"""

NOISES = (
    # the noise, its cause, where exactly, what they do about it
    ("scratching", "a cat with five kittens", "in the corner", "brought it a bowl of milk"),
    ("knocking", "a loose board in the wind", "at the window", "tied it with a string"),
    ("hooting", "an old owl", "under the roof", "left a window open for it"),
    ("crying", "a puppy with one paw caught", "under a board", "set it free"),
    ("squeaking", "a family of mice", "near the wall", "left them some cheese"),
    ("rustling", "a hedgehog in dry leaves", "behind the door", "gave it an apple"),
    ("whistling", "the wind in an empty bottle", "at the window", "carried it out"),
    ("humming", "a nest of bees in a hole", "under the roof", "left them in peace"),
    ("bumping", "a goat that had lost its way", "behind the door", "led it back to the field"),
    ("ringing", "a sheep with a bell", "in the corner", "walked it home"),
    ("snoring", "a tired old man on a sack", "in the corner", "laid a blanket over him"),
    ("dripping", "rain that came through the roof", "near the wall", "put a bucket under it"),
)  # fmt: skip


def noise(story: Story) -> None:
    """A frightening noise at night; the hero goes to look and finds a harmless cause."""
    world, hero, rng = story.world, story.hero, story.world.rng
    sound, cause, spot, deed = rng.choice(NOISES)
    place = world.place("attic", "barn", "mill", "school", "library")
    friend = world.friend()
    light = world.thing(hero, ("lamp",))
    ghost = rng.choice(GHOSTS)
    timid = hero.trait in ("timid", "shy")
    story.want, story.place = f"know what made the {sound}", place.noun
    story.obstacle = f"it was dark and it could be {ghost}"
    story.thing, story.helper = light.noun, friend.name
    story.say("noise_begin", N=sound, P=place)
    story.maybe("trait")
    story.say("noise_fear" if timid else "noise_wonder", V=forms(ghost, noun=ghost[2:]))
    story.say("noise_friend", F=friend, T=light)
    world.go(hero, place)
    world.go(friend, place)
    story.maybe("noise_dark")
    story.say("noise_see", cause=cause, S=spot)
    world.do("solve", hero, what=cause)
    story.say("noise_deed", deed=deed)
    story.say("noise_end" if timid else "noise_other_end")
    story.outcome = f"the {sound} came from {cause}, and they {deed}"


GHOSTS = ("a ghost", "a wolf", "a thief", "a giant", "a bear", "a witch", "a dragon", "a robber")

NOISE = """
noise_begin:
    (one night|late one evening|one stormy night|one cold night|in the middle of the night), [H] heard a (strange |low |odd |faint )[N] (coming from|from) [P].
    there was a (strange|faint|odd|queer) [N] [P.in] (every night that week|that night|one night). [H] (heard it and sat up|lay awake and listened|could not sleep because of it).
    "what is that [N]?" (whispered|asked) [H] (one night|one dark evening). it came from [P].
noise_fear:
    [H.he] (hid under the blanket|pulled the sheet up to [H.his!] chin|did not dare to breathe). ("it must be [V],"|"what if it is [V]?"|"perhaps it is [V],") [H.he!] thought.
    [H.his] (knees|hands) (shook|trembled). perhaps it was [V]! but [H.he!] wanted to know (the truth|what it was).
noise_wonder:
    "(is it|could it be) [V]?" (thought|said) [H]. "I (want to know|must find out|will go and see)."
    some (said|thought) it was [V], but [H] (did not believe that|only laughed|wanted to see for [H.himself!]).
noise_friend:
    so [H] called [F] and lit [T]. "(come with me|do not leave me alone|stay close)," [H.he!] whispered.
    [H] took [T] and (knocked at [F.his] door|ran to [F]). "(two are braver than one|I will come|I heard it too)," said [F.name].
noise_dark:
    hand in hand they (crept|walked|tiptoed) [P.to]. (it was dark|the door creaked|a cold wind blew|their shadows danced), and the [N] (grew louder|was quite near|did not stop).
    the (door creaked|stairs groaned|moon hid behind a cloud) as they came [P.to]. "(there|listen)!" whispered [F]. the [N] (came again|was louder now).
noise_see:
    [H] (held up|raised|lifted) the [T.noun] with a (shaking|steady|brave) hand, and there, [S], was [cause]!
    (one step|two steps|three steps) more, and the light fell on [cause], [S]. there was no [V.noun] at all.
noise_deed:
    they looked at each other and laughed, and then they [deed].
    "(so that was our|look at our|that is all our) [V.noun]!" (laughed|said) [F], and (together|at once) they [deed].
noise_end:
    [H] slept well (that night|until morning|after that), and (the next time|when) something made a [N], [H.he!] (went to look|just took the lamp|smiled).
    "I was afraid of a [N]," said [H], "but I went (all the same|to see)." and [F] (said|answered), "that is what brave people do."
    after that night [H] was not so afraid of (the dark|a [N])(| any more).
noise_other_end:
    (now|then) [H] (could sleep|went back to bed) and dreamed of a friendly [V.noun].
    at breakfast they told everyone about the [N], and [F] (made it sound|said it was) as big as [V].
    "look first and be afraid later," said [H], and [F] (yawned|agreed|laughed).
"""

BUILDS = (
    ("a hut", "branches", "forest", "the roof fell in", "told stories inside it"),
    ("a raft", "old planks", "river", "it sank with a gurgle", "sailed it to the bridge and back"),
    ("a swing", "rope and a board", "orchard", "the knot came loose", "swung as high as the leaves"),
    ("a bridge", "flat stones", "meadow", "the water carried it away", "crossed the stream with dry feet"),
    ("a bird house", "thin boards", "garden", "the walls fell flat", "listened to the birds that lived in it"),
    ("a cart", "a box and four wheels", "hill", "a wheel rolled away", "raced down the road in it"),
    ("a sand castle", "wet sand", "beach", "a wave knocked it down", "put a flag on the highest tower"),
    ("a tower", "hay", "barn", "it leaned and fell over", "sat on top and saw the whole farm"),
    ("a stage", "boards and boxes", "square", "it wobbled and broke", "put on a play for the whole village"),
    ("a slide", "a long smooth plank", "park", "the plank slipped off", "slid down it a hundred times"),
)  # fmt: skip


def build(story: Story) -> None:
    """The hero wants to build something alone, fails, and manages with the others."""
    world, hero, rng = story.world, story.hero, story.world.rng
    what, stuff, where, fail, use = rng.choice(BUILDS)
    place = world.place(where)
    friend = world.friend()
    third = world.child()
    proud = hero.trait in ("proud", "stubborn")
    story.want, story.place, story.thing = f"build {what}", place.noun, what.split(" ", 1)[1]
    story.obstacle, story.helper = fail, friend.name
    story.say("build_begin", B=what, noun=story.thing, stuff=stuff, P=place)
    story.maybe("trait")
    story.say("build_offer_no" if proud else "build_try", F=friend, K=third)
    story.say("build_fail", fail=fail)
    story.say("build_ask")
    world.do("help", friend, hero)
    story.say("build_work")
    story.say("build_use", use=use)
    story.say("build_end" if proud else "build_other_end")
    story.outcome = f"they built {what} together and {use}"


BUILD = """
build_begin:
    [when], [H] wanted to build [B] [P.in]. [H.he] (gathered|found|carried) [stuff] and (began|set to work|started) $at_once.
    "I am going to build [B]," said [H] [when], and [H.he!] (carried|took) [stuff] [P.to].
    [when], [H] (stood|was) [P.in] with [stuff] and a (big|clever) plan. [H.he] wanted to build [B].
build_offer_no:
    [F] and [K.name] (came by|looked over the wall). "(can|may) we help?" they asked. "no, it is my [noun]," said [H]. "I (need|want) no help."
    "shall we hold (that|it) for you?" asked [F] and [K.name]. [H] (shook [H.his!] head|frowned). "I can do it (alone|better alone|by myself)."
build_try:
    [H] worked (alone|all by [H.himself!]) (all morning|for hours|until noon). it was (hot|hard|heavy), and (there was nobody to hold the other end|two hands were not enough).
    (all morning|for two hours) [H.he] (pulled|pushed|lifted|hammered) alone, (for [F] was busy|because [H.he!] did not like to ask|and [H.his!] arms ached).
build_fail:
    (then|but just when it seemed done|in the afternoon|after an hour), [fail]. $sigh.
    [H] stepped back to look, and (at that moment|just then), [fail]! "oh no," [H.he!] (groaned|cried|sighed).
    [H] (started|tried) (once|twice) more, (but|and still) it went wrong, for [fail].
build_ask:
    at last [H] went to [F]. "(I was wrong|I need you|it is too hard for one)," [H.he!] said. "(will you|could you|can you) help me?" [F] (called|ran to get) [K] too.
    "(I cannot do it alone|please help me)," [H] said to [F] and [K]. (they did not laugh|they came at once|they rolled up their sleeves).
build_work:
    [F.name] held (the bottom|the left side|one end), [K.name] (tied|pushed|fixed) (the top|the other side|the rest), and [H.name] told them (what to do|the plan).
    (three heads had three ideas|now there were six hands). [K] (found|knew) a better way, [F] brought more [stuff], and [H] put it all together.
build_use:
    (by evening|before sunset|the next day) the [noun] was (ready|done|finished), and the three of them [use].
    this time the [noun] (held|was strong and good), and (that very day|that evening|before the sun went down) they [use].
build_end:
    "whose [noun] is (it|this)?" asked (a man|a neighbour|the teacher). [H] did not say that it was [H.his!] alone. "ours," [H.he!] said.
    [H] was still a little [H.trait], but (now |)[H.he!] said "we built it" and (pointed to [F] and [K]|smiled at [F]|winked at [K]).
build_other_end:
    "alone I had a heap of [stuff]," said [H]. "(with you I have [B]|thank you both)."
    (that night|before they went home) they (carved|wrote|painted) three names on a stone beside the [noun], and [H.name] was the last of them.
"""

PLOTS = {
    "contest": contest,
    "quarrel": quarrel,
    "promise": promise,
    "share": share,
    "noise": noise,
    "build": build,
}
RULES = CONTEST + QUARREL + PROMISE + SHARE + NOISE + BUILD
TRAITS = {
    "contest": ("lazy", "proud", "kind", "patient", "hard working", "shy", "stubborn", "timid"),
    "quarrel": ("stubborn", "proud", "hasty", "cheerful", "curious"),
    "promise": ("lazy", "hasty", "careless", "honest", "careful", "patient", "hard working"),
    "share": ("greedy", "greedy", "kind", "cheerful", "shy", "honest"),
    "noise": ("timid", "timid", "shy", "brave", "curious"),
    "build": ("proud", "stubborn", "shy", "hard working", "cheerful", "curious"),
}
