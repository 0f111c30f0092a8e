"""Plots about the world outside: rain, animals, learning a skill, growing a plant, an errand."""

from __future__ import annotations

from stories_world import Story, forms

BLOCKS = (
    # the block, the short cut, what it costs, what a helper can do
    ("a tree had fallen across the path", "crawl under the wet tree", "tore one sleeve on a branch", "knew a way around the tree"),
    ("the little bridge was gone", "jump over the stream", "landed in the cold water", "had a small boat"),
    ("a herd of cows stood on the path", "push between the cows", "stepped into something soft", "led the cows away"),
    ("the gate was locked", "climb over the wall", "got stuck on top of it", "had the key to the gate"),
    ("the path was one big puddle", "run through the mud", "lost one shoe in it", "laid a plank over the mud"),
    ("a goose hissed in the middle of the path", "run past the goose", "got a sharp bite", "drove the goose away"),
    ("a cart with a broken wheel filled the road", "climb over the cart", "slipped on the wet boards", "pushed the cart aside"),
    ("a sign said the road was closed", "cut through the thorns", "was scratched all over", "knew a dry path by the hedge"),
)  # fmt: skip
LOADS = (
    # the load, its short name, what it is for, where it comes from
    ("a basket of eggs", "the eggs", "make a cake", "barn market"),
    ("a bag of flour", "the flour", "bake bread", "mill market"),
    ("a pot of honey", "the honey", "sweeten the tea", "orchard market"),
    ("a jug of milk", "the milk", "make a cake", "barn meadow"),
    ("a bag of sugar", "the sugar", "make plum jam", "market square"),
    ("a box of candles", "the candles", "light the rooms", "market square station"),
    ("a bundle of dry wood", "the wood", "light the stove", "forest hill"),
    ("a big cheese", "the cheese", "feed the guests", "market barn"),
    ("a bag of tea", "the tea", "warm the family", "harbour station market"),
    ("a basket of mushrooms", "the mushrooms", "cook a soup", "forest meadow"),
    ("a basket of berries", "the berries", "fill the pie", "forest hill"),
    ("a bucket of fish", "the fish", "cook supper", "harbour river beach"),
    ("a bag of apples", "the apples", "make apple juice", "orchard"),
)  # fmt: skip


def homeward(story: Story) -> None:
    """The hero must be home before the rain with a load; hasty or careful, the way is blocked."""
    world, hero, rng = story.world, story.hero, story.world.rng
    elder = world.adult(
        jobs=False, only=("Grandma", "Grandpa", "Mother", "Father", "Aunt Rose", "Uncle Bill")
    )
    load, short, use, sources = rng.choice(LOADS)
    place = world.place(*sources.split())
    block, shortcut, harm, remedy = rng.choice(BLOCKS)
    helper = world.friend() if rng.random() < 0.5 else world.adult()
    hasty = hero.trait in ("hasty", "careless", "stubborn")
    story.want, story.place = f"bring {short} home before the rain", place.noun
    story.reason, story.thing = f"{elder.name} needed {short} to {use}", short.split()[-1]
    story.obstacle, story.helper = block, helper.name
    world.go(hero, place)
    story.say("home_begin", P=place, E=elder, load=load, short=short, use=use)
    story.say("trait")
    story.maybe("home_clouds")
    story.say("home_block", block=block)
    story.say("home_hasty" if hasty else "home_careful", cut=shortcut, harm=harm)
    story.say("home_help", F=helper, way=rng.choice((remedy, remedy, *WAYS)))
    world.do("help", helper, hero)
    story.maybe("home_rain")
    story.say("home_hasty_end" if hasty else "home_end")
    story.outcome = f"{helper.name} helped {hero.name} to bring {short} home"


WAYS = (
    "knew another way",
    "took half of the load",
    "had a pony that knew the way",
    "led the way past the old well",
)

HOMEWARD = """
home_begin:
    [when], [E] sent [H] [P.to] (for|to get) [load]. "I need it to [use]," said [E.name]. "be home before the rain."
    "(run along|please go) [P.to] and (bring|fetch) me [load]," [E] told [H] [when]. "I want to [use], and there will be rain."
    [when], [H] was [P.in] to get [load], for [E] wanted to [use]. "(come straight home|do not get wet|hurry before the rain)," [E.he] had said.
home_clouds:
    (on the way back|soon), (black|dark|heavy) clouds (came up|rolled in|hid the sun), and (the wind grew cold|the air smelled of rain|the wind began to blow). [H] (walked faster|held [short] tight).
    "(it is going to rain|look at those clouds)!" said [H] on the way (back|home). (thunder rolled far away|the birds fell silent).
home_block:
    but (halfway home|near the [home]|at the end of the lane) [block]. [H] (stopped|stood still|had not thought of that).
    [H] (turned|came round) a corner, and (there|oh no), [block]! (what now|what could be done)?
home_hasty:
    "I have no time for this," said [H], and [H.he!] tried to [cut]. but [H.he!] [harm], and [short] (fell|nearly fell|rolled away).
    (without a thought|in a hurry), [H] tried to [cut], but (of course |)[H.he!] [harm]. "(ouch|oh dear)!" [H.he!] cried, and [short] (fell down|dropped).
home_careful:
    [H] could have tried to [cut], but [H.he!] (put down [short] and thought|looked for a better way|did not want to drop [short]).
    a hasty [H.kid] would have tried to [cut]. [H] (took a deep breath|looked around|thought of [short]) and (waited|called for help) instead.
home_help:
    (then|just then|luckily) [F] came by, who [way]. "(come on|come with me|I can help)," [F.he!] said(, and they hurried on together|).
    "(do you need help|where are you going), [H.name]?" called [F], who [way].
home_rain:
    they reached the (door|house) (just as|a moment before) the rain (came down|began to pour|fell like a curtain).
    (behind them|a minute later) the rain (poured|drummed on the roof|came down in sheets), but they were (inside|home|under a dry roof).
home_end:
    [E] (took|looked at) [short], (dry and whole|not a drop on it|safe and sound), and (was $glad|kissed [H.him]|laughed). [F] was asked to stay (for supper|too|and eat).
    "(well thought|you kept your head)," said [E], and with [short] [E.he!] could [use].
    so [E] could [use] after all, and [H] and [F] (sat by the fire|dried their hair|watched the rain at the window).
home_hasty_end:
    half of [short] was lost. "next time, think first," said [E], but there was (still |)enough to [use].
    [E] saw what was left of [short] and (sighed|shook [E.his!] head). "(haste is a bad guide|better late than wet)," [E.he!] said, and [H] (nodded|agreed).
    [H] told [E] (everything|the truth about it). they could [use] with what was left, and [F] got (the first piece|a warm seat by the fire).
"""

ANIMALS = (
    # animal, where, its trouble, the tool, what the hero does with it, thanks
    ("kitten", "orchard", "sat high in a tree and could not get down", "a ladder", "climbed up and carried it down", "slept in {his} arms"),
    ("lamb", "river", "was stuck in the mud", "a rope", "tied the rope around the lamb and pulled", "followed {him} everywhere"),
    ("bird", "park", "lay on the ground with a hurt wing", "a soft box", "kept it warm until it could fly", "sang at {his} window every morning"),
    ("puppy", "hill", "had fallen into a deep hole", "a long rope", "went down and brought it up", "jumped into {his} arms"),
    ("hedgehog", "garden", "was caught in a net", "a small knife", "cut the net open", "came back every night"),
    ("duckling", "river", "had lost its mother", "a basket", "laid it in the basket and carried it to the pond", "ran to {him} when {he} came by"),
    ("calf", "meadow", "had slipped into a ditch", "a wide plank", "laid the plank down like a bridge", "laid its head on {his} arm"),
    ("rabbit", "forest", "had its foot in a trap", "a strong stick", "pushed the trap open", "let {him} stroke its ears"),
    ("hen", "barn", "had its leg between two boards", "a hammer", "took one board away", "laid an egg for {him}"),
    ("gull", "beach", "had a string around its leg", "a small knife", "cut the string bit by bit", "flew circles above {his} head"),
    ("pony", "meadow", "had a sharp stone in its hoof", "a small hammer", "knocked the stone out", "let {him} ride on its back"),
    ("squirrel", "park", "had fallen from a high tree", "some warm milk", "fed it drop by drop", "sat on {his} shoulder"),
    ("goat", "hill", "stood on a ledge and could not turn", "a bag of hay", "led it back step by step", "ate out of {his} hand"),
    ("seal", "beach", "lay far from the water", "a wet blanket", "laid it on the blanket and pulled it to the sea", "raised its head when {he} whistled"),
)  # fmt: skip


def animal(story: Story) -> None:
    """An animal in trouble; bare hands are not enough, a tool is borrowed, the animal is free."""
    world, hero, rng = story.world, story.hero, story.world.rng
    kind, where, trouble, tool, deed, thanks = rng.choice(ANIMALS)
    place = world.place(where)
    helper = world.friend() if rng.random() < 0.4 else world.adult()
    pronouns = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}[hero.gender]
    for key, word in zip(("{he}", "{him}", "{his}"), pronouns, strict=True):
        thanks = thanks.replace(key, word)
    colour = rng.choice(("little", "brown", "white", "grey", "black", "small", "young"))
    name = rng.choice(("Snow", "Button", "Star", "Cloud", "Honey", "Apple", "Berry", "Feather"))
    story.want, story.place, story.thing = f"help the {kind}", place.noun, kind
    story.reason, story.obstacle = f"the {kind} {trouble}", f"{hero.name} needed {tool}"
    story.helper = helper.name
    world.go(hero, place)
    do = rng.choice(place.doing)
    story.say(
        "animal_begin", A=kind, C=colour, P=place, trouble=trouble, do=forms(do[0], ing=do[1])
    )
    story.maybe("trait")
    story.maybe("animal_try")
    story.say("animal_tool", F=helper, tool=tool)
    story.say("animal_deed", deed=deed)
    world.do("help", hero, what=kind)
    story.say("animal_free")
    story.say("animal_end", thanks=thanks, N=name)
    story.outcome = f"the {kind} was safe and {thanks}"


ANIMAL = """
animal_begin:
    [when], [H] was [do.ing] [P.in] when [H.he!] heard a (sad|weak|small|faint) cry. a [C] [A] [trouble].
    [when], [H] $went [P.to] to [do]. there [H.he!] saw a [C] [A] that [trouble].
    a [C] [A] [trouble]. that was how [H] found it [P.in] [when], while [do.ing].
animal_try:
    [H] wanted to help the [A], but (with bare hands [H.he!] could not do it|bare hands were not enough|[H.he!] could not do it alone). "I will be back," [H.he!] (told it|whispered|promised).
    "(you poor little [A]|do not be afraid|hush now)," said [H]. [H.he] (tried and tried|reached out|did what [H.he!] could), but it was no use without help.
animal_tool:
    [H.he] ran to [F]. "(please|quick), (come and help|I need help), and bring [tool]!" [F] (came|got up) $at_once.
    "(I need|may I have) [tool]," [H] told [F], "for a [A] is in trouble [P.in]." "then (let us go|hurry)," [F.he!] said.
    luckily [F] (was not far away|lived near by|was just passing) and had [tool]. (together|side by side) they (ran|hurried) back to the [A].
animal_deed:
    (slowly|with a steady hand|very gently), [H] [deed], while [F] (spoke softly to the [A]|kept the [A] calm|watched).
    "(slowly now|easy, easy|gently now)," (said|whispered) [F.name], and [H.name] [deed]. the [A] (trembled|shook|kept still), but it (seemed to trust [H.him]|did not bite|let [H.him] help).
animal_free:
    (at last|then) the [A] was safe! it looked at [H] (for a long time|with big eyes|and made a happy sound).
    the [A] (was safe|had nothing to fear any more), and [H.name] and [F.name] (cheered|laughed|smiled at each other|shook hands).
animal_end:
    [H] called the [A] [N], and from then on it [thanks].
    "I will call you [N]," said [H]. (after that|from that day), the [A] [thanks].
    the [A] did not forget [H]. (all summer|for many weeks|whenever [H.he!] came [P.to]), it [thanks].
"""

SKILLS = (
    # to, -ing, where, what goes wrong, advice, reason
    ("swim", "swimming", "river", "sank like a stone", "breathe out slowly"),
    ("ride a pony", "riding a pony", "meadow", "fell into the grass", "hold on with your knees"),
    ("whistle", "whistling", "hill", "made no sound but air", "make your lips small and round"),
    ("bake bread", "baking bread", "mill", "made a loaf as hard as stone", "give the dough time to rise"),
    ("row a boat", "rowing a boat", "harbour", "went round in circles", "pull with both hands at once"),
    ("play the flute", "playing the flute", "school", "made the dog howl", "start with one sound"),
    ("skip with a rope", "skipping with a rope", "square", "tripped over the rope", "jump on every second beat"),
    ("climb a rope", "climbing a rope", "barn", "slid down and burned both hands", "use your feet"),
    ("fly a kite", "flying a kite", "beach", "dropped it in the sand", "run against the wind"),
    ("dance", "dancing", "square", "stepped on every foot", "listen to the drum"),
    ("fish", "fishing", "river", "caught an old boot", "keep quiet and wait"),
    ("draw a horse", "drawing a horse", "library", "made something like a goat", "look twice and draw once"),
    ("catch a ball", "catching a ball", "park", "got it right on the nose", "keep your eyes on the ball"),
    ("walk on stilts", "walking on stilts", "orchard", "fell into a bush", "take very small steps"),
    ("juggle", "juggling", "market", "dropped three eggs", "begin with one and add another"),
    ("milk a cow", "milking a cow", "barn", "was pushed into the hay", "warm your hands first"),
)  # fmt: skip
AIMS = (
    "wanted to surprise {0}", "wanted to do it at the summer feast", "was tired of only watching",
    "wanted to be like {0}", "had dreamed of it all winter", "wanted to make {0} laugh",
    "had promised it to {0}", "wanted to show it at the school feast",
)  # fmt: skip


def learn(story: Story) -> None:
    """The hero wants to learn a skill, fails in a funny way, takes advice, practises, shows it."""
    world, hero, rng = story.world, story.hero, story.world.rng
    skill, skilling, where, fail, advice = rng.choice(SKILLS)
    place = world.place(where)
    teacher = world.friend() if rng.random() < 0.4 else world.adult()
    viewer = world.adult(jobs=False)
    aim = rng.choice(AIMS).format("[V]")
    stubborn = hero.trait in ("stubborn", "proud", "hasty")
    story.want, story.place, story.helper = f"learn to {skill}", place.noun, teacher.name
    story.reason = f"{hero.name} {aim.replace('[V]', viewer.name)}"
    story.obstacle = f"{hero.name} {fail}"
    story.thing = skill.split()[-1]
    world.go(hero, place)
    story.say("learn_begin", K=forms(skill, ing=skilling), P=place, V=viewer, aim=aim)
    story.say("trait")
    story.say("learn_fail", fail=fail)
    if stubborn:
        story.say("learn_refuse", F=teacher, advice=advice)
        story.say("learn_fail_again")
    else:
        story.say("learn_ask", F=teacher, advice=advice)
    world.do("teach", teacher, hero, skill)
    story.maybe("learn_practise")
    world.do("learn", hero, what=skill)
    story.say("learn_can")
    story.say("learn_stubborn_end" if stubborn else "learn_end")
    story.outcome = f"{hero.name} learned to {skill} with the help of {teacher.name}"


LEARN = """
learn_begin:
    [when], [H] (decided|made up [H.his!] mind) to learn to [K], because [H.he!] [aim].
    "I want to learn to [K]," said [H] [when]. [H.he] [aim].
    [when], [H] went [P.to] to learn to [K]. [H.he] [aim].
learn_fail:
    but the first time, [H] [fail]. (some|two|the other) children [P.in] (laughed|giggled|held their noses|shook their heads).
    [H.he] went [P.to], (tried it|tried once), and [fail]. "(this is harder than it looks|so it is not that easy|what a hard thing)," [H.he!] (groaned|said|sighed).
    [K.ing] (looked so easy|was hard|was not easy at all). [P.in] [H.he!] [fail].
learn_ask:
    "(can you show me how|how do you do it)?" [H] asked [F]. "[advice]," [F.he!] said(, and showed [H.him]| with a smile|).
    [F] (had watched|saw it all) and (came over|sat down beside [H.him!]). "(my tip is this|here is the secret), [advice]," [F.he!] said.
    [H] went to [F], who (was good at|knew all about) [K.ing]. "[advice]," said [F], "and (do not give up|all the rest will follow)."
learn_refuse:
    "[advice]," said [F], who (had watched|was passing by). but [H] (would not listen|knew better|frowned). "I do not need advice," [H.he!] said.
    [F] wanted to help. "[advice]," [F.he!] said. "(leave me alone|I know that|I can do it my way)," (answered|snapped) [H].
learn_fail_again:
    (ten more times|all week|again and again) [H] tried [H.his!] own way, and (ten times|each time|every time) it went wrong. "(all right|very well), [F.name]," [H.he!] said $soon. "show me."
    [H.his] own way (did not work|led nowhere|only hurt). (red in the face|after three days), [H.he!] (came back to|went to) [F] and (asked|said), "please tell me again."
learn_practise:
    (every day|each evening|day after day) [H] practised [K.ing] and (thought of|remembered) the words "[advice]."
    [F] (stayed|came every day), and [H] tried (once more|again), (a little|a bit) (better|longer) each (time|day).
    (for a week|for two weeks|all month) [H] practised [P.in] (before breakfast|until dark|with [F]), and $soon it (felt easy|began to work).
learn_can:
    and then, (one fine day|all at once|on a Sunday), [H] could [K]! "(I did it|look at me|it works)!" [H.he!] (shouted|cried|laughed).
    (one|the next) (day|morning) it worked. [H] could (really|at last) [K], and (nobody laughed now|[F] clapped).
learn_end:
    [V] (came to see it|watched) and (clapped|could not believe it). "(who taught you|where did you learn) to [K]?" [V.he!] asked, and [H] (pointed at|named) [F].
    (in the autumn|a year later), a small child asked, "how do you [K]?" [H] (smiled|sat down) and said, "[advice]."
    [V] (said|thought|told everyone) that no one [P.in] could [K] so well, and [H] (blushed|beamed|thanked [F]).
learn_stubborn_end:
    [V] (clapped|watched and smiled). "did you learn to [K] (alone|by yourself)?" "no," said [H]. "I (listened|began to listen) to [F.name]."
    after that [H] was less [H.trait], for (good|the right) advice from [F] had been worth more than (a hundred|ten) tries.
    when [V] saw [H] [K], [V.he!] was $glad. and [H] told [H.himself!], "[advice], and listen."
"""

PLANTS = (
    # seed, plant, where, what for, what came of it
    ("a bean", "bean plant", "garden", "climb up to the window", "reached the window"),
    ("a sunflower seed", "sunflower", "garden", "have a flower taller than the door", "looked over the roof of the shed"),
    ("a pumpkin seed", "pumpkin", "meadow", "win at the harvest feast", "was too big to carry"),
    ("an apple pip", "apple tree", "orchard", "have a tree of {his} own", "had three green leaves and stood firm"),
    ("a rose cutting", "rose", "park", "give a rose to a friend", "opened one dark red flower"),
    ("a carrot seed", "carrot", "garden", "feed the pony", "was as long as an arm"),
    ("a melon seed", "melon", "garden", "eat a melon in the sun", "was as sweet as honey"),
    ("a cherry stone", "cherry tree", "hill", "sit in the shade of a tree", "was soon as tall as a child"),
    ("a flower seed", "flower", "school", "see something bright after winter", "opened like a yellow cup"),
    ("a grain of corn", "corn plant", "mill", "bake a loaf of bread", "stood golden in the sun"),
)  # fmt: skip
PESTS = (
    ("snails came to eat the leaves", "put a ring of ashes around it"),
    ("no rain fell for three weeks", "carried water to it every evening"),
    ("a goat looked over the fence", "built a little fence"),
    ("a cold night came", "covered it with straw"),
    ("birds came to pick at it", "hung up bits of bright tin"),
    ("the wind bent it low", "tied it to a stick"),
    ("weeds grew all around it", "pulled up the weeds by hand"),
)  # fmt: skip


def plant(story: Story) -> None:
    """A seed needs patience; the hasty one digs it up, the patient one waits and guards it."""
    world, hero, rng = story.world, story.hero, story.world.rng
    seed, grown, where, aim, result = rng.choice(PLANTS)
    aim = aim.replace("{his}", hero.his)
    place = world.place(where)
    giver = world.adult(jobs=False)
    pest, remedy = rng.choice(PESTS)
    hasty = hero.trait in ("hasty", "curious", "lazy")
    story.want, story.thing, story.place = f"grow a {grown}", grown.split()[0], place.noun
    story.reason, story.helper, story.obstacle = f"{hero.name} wanted to {aim}", giver.name, pest
    story.say("plant_begin", G=giver, seed=seed, grown=grown, P=place, aim=aim)
    story.say("trait")
    story.say("plant_sow")
    if hasty:
        story.say("plant_lazy" if hero.trait == "lazy" else "plant_dig")
        story.say("plant_second", seed=seed)
    else:
        story.maybe("plant_wait")
    if hasty:
        story.obstacle = f"{hero.name} did not wait"
    else:
        story.say("plant_pest", pest=pest)
        story.say("plant_remedy", remedy=remedy)
    world.do("grow", hero, what=grown)
    story.say("plant_result", result=result)
    story.say("plant_hasty_end" if hasty else "plant_end")
    story.outcome = f"the {grown} {result}"


PLANT = """
plant_begin:
    [when], [G] gave [H] [seed]. "(put it in the ground|plant it) and (wait|give it time)," [G.he!] said. [H] wanted to [aim].
    [H] wanted to [aim]. so, [when], [H.he!] asked [G] for [seed] and got it.
    "what will grow from this?" asked [H] [when]. "a [grown], if you (wait|are patient)," said [G] and gave [H.him] [seed]. [H] wanted to [aim].
plant_sow:
    [P.in] [H] (dug|made) a (small|deep|neat) hole, put it in, and (covered it with earth|patted the earth|gave it water).
    [H] (chose|found) a (sunny|good|quiet) place [P.in], (dug a hole with a spoon|made a hole with one finger), and planted it.
plant_dig:
    but (the very next day|after two days|before lunch) [H] (could not wait|wanted to see more) and dug it up (to look|again). it was dry and dead.
    "is it awake?" asked [H] (ten times a day|every hour). (on the third day|at last) [H.he!] dug it up, and the shoot snapped.
plant_lazy:
    then [H] (lay down|went to sleep) in the shade and (forgot it|gave it no water) for (a week|ten days). (it dried up|nothing came up but dust).
    "I will water it tomorrow," said [H] (every day|each evening), and (a week later|soon) it was (dry and dead|brown and dry).
plant_second:
    [G] (sighed|shook [G.his!] head) and gave [H.him] (another|a new) one. "(once more, and now leave it be|a seed has its own clock)," [G.he!] said.
    (ashamed|with a red face), [H] went (back |)to [G], who had one more. "this is the last," [G.he!] said.
plant_wait:
    (day after day|for two weeks) there was nothing to see but (earth|brown earth). [H] (waited|came every morning|sang to it) and did not dig.
    [H] (came|went) [P.to] every (morning|evening) with (a cup of water|a full jug). "(take your time|good morning, little one|sleep well)," [H.he!] said.
    "nothing will come of that," said (a neighbour|the others), but [H] (waited|smiled and waited|only shrugged).
plant_pest:
    then a (tiny|thin|small) green (tip|shoot|leaf) came up (one day|at last)! but [pest].
    (one morning|at last) there was a (tip of green|green shoot) in the earth, and [H] (danced|called everyone). but then [pest].
plant_remedy:
    "(not my [grown]|oh no|I will not allow it)," said [H], and [H.he!] [remedy].
    [H] asked [G] (what to do|for advice), and then [H.he!] [remedy] (with [H.his!] own hands|without a word|and kept watch).
plant_result:
    (week by week|slowly|day by day) it grew, and (in the summer|in the end|one day) the [grown] [result].
    (summer came|the weeks went by), and the [grown] [result](| at last| just as [G] had said).
plant_end:
    so [H] could [aim] (after all|at last), and [G] (was $glad|came to see it|took off [G.his!] hat to [H.him]).
    "how did you do it?" asked [G]. "I (waited|just waited|gave it time)," said [H].
    a small thing had become (something great|a joy for everyone). [H] (thanked|hugged) [G] for it.
plant_hasty_end:
    "(waiting is work too|now I know how to wait)," [H] told [G], who (laughed|nodded|winked).
    so [H] could [aim], though (a little later than planned|only at the second try), and [G] (smiled|said nothing).
    [H] looked at the [grown] and (thought|said), "you (taught me|showed me how) to wait." and [G] (heard it and smiled|had to laugh).
"""

GOODS = (
    ("letter", "the letter said that a baby was born"), ("letter", "the letter asked for help"),
    ("key", "the key opened the chest with the winter clothes"),
    ("watch", "without the watch one would miss the train"),
    ("book", "the book had the cake recipe in it"), ("hat", "the wedding was about to begin"),
    ("flute", "the dance could not start without the flute"),
    ("lamp", "the night would have no moon"), ("bell", "the old bell had cracked"),
    ("map", "a long trip was about to start"), ("basket", "the supper was in the basket"),
    ("coat", "the wind was as cold as ice"),
)  # fmt: skip
DELAYS = (
    ("a puppet show", "stop and watch"), ("a band with drums", "march along with it"),
    ("a tree full of cherries", "climb up and eat"), ("some children with a ball", "play with them"),
    ("a frog in a pool", "catch it"), ("a man who sold sweets", "try each kind"),
    ("a kite in the sky", "run after it"), ("a dog that wanted to play", "throw sticks for it"),
)  # fmt: skip


HARDSHIPS = (
    "a steep path",
    "a wet field",
    "a dark wood",
    "a long bridge",
    "a crowd of people",
    "a cold wind",
)
LOSSES = (
    "the wind had carried it away",
    "a goat was pulling at it",
    "it was gone",
    "a dog had run off with it",
)
FINDINGS = (
    "in a ditch",
    "under a hedge",
    "on top of a wall",
    "behind a bush",
    "in a puddle",
    "between two stones",
)


def errand(story: Story) -> None:
    """The hero carries something to someone in time; a temptation and the wind get in the way."""
    world, hero, rng = story.world, story.hero, story.world.rng
    noun, why = rng.choice(GOODS)
    sender = world.adult()
    taker = world.adult()
    place = world.place(but=("attic",))
    friend = world.friend()
    sight, tempt = rng.choice(DELAYS)
    hasty = hero.trait in ("careless", "lazy", "greedy")
    story.want, story.thing, story.place = f"bring the {noun} to {taker.name}", noun, place.noun
    story.reason, story.obstacle, story.helper = why, f"{hero.name} saw {sight}", ""
    story.say("errand_begin", S=sender, R=taker, P=place, noun=noun, why=why)
    story.maybe("trait")
    story.say("errand_see", sight=sight, tempt=tempt)
    if hasty:
        story.helper = friend.name
        story.say("errand_stop")
        story.say("errand_gone", W=rng.choice(LOSSES))
        story.say("errand_search", F=friend, X=rng.choice(FINDINGS))
        world.do("help", friend, hero)
        story.say("errand_late")
        story.say("errand_late_end")
        story.outcome = f"{taker.name} got the {noun} late"
    else:
        story.say("errand_resist")
        story.maybe("errand_road", X=rng.choice(HARDSHIPS))
        story.say("errand_give")
        story.say("errand_end")
        story.outcome = f"{taker.name} got the {noun} in time"
    world.do("deliver", hero, taker, noun)


ERRAND = """
errand_begin:
    [when], [S] gave [H] a [noun] and said, "(take|carry|bring) it to [R.name], who is [P.in]." (it was urgent|there was no time to lose), for [why].
    "[R.name] needs this [noun]," [S] told [H] [when]. "go [P.to] (and do not stop|at once)." it was important, for [why].
    [H] had to bring a [noun] [P.to], where [R] was waiting for it. [S] had (asked [H.him] to go|sent [H.him]) [when], for [why].
errand_see:
    (on the way|at the first corner|near the [home]) [H.he] saw [sight]. (oh, how|how) [H.he!] (wanted|longed) to [tempt]!
    the way was long, and (halfway|at a bend in the road) there was [sight]. [H] wanted (very much |)to [tempt].
errand_stop:
    "(one minute|a little while) will not hurt," said [H]. [H.he] put down the [noun] to [tempt], and the minute (became|grew into|turned into) an hour.
    [H] put the [noun] (on a stone|on the grass|on a wall) and (forgot all about [R]|did not think of [R] any more), so (good|great) was the fun.
errand_gone:
    when [H.he] (turned round|came back|thought of the [noun] again), [W]. $sigh.
    then [H] remembered [R]. but (where was the [noun]|the [noun])? [W]!
errand_search:
    [F] (heard [H.his] cry|came by) and helped to look, and $soon they found the [noun] [X], (dirty|wet) but whole.
    "(do not cry|stay calm|come on), let us look," said [F]. (at last|an hour later) [F.he!] found it [X].
errand_late:
    out of breath, [H] (reached|came to) [R] [P.in]. [R.he] took the [noun] and said, "(better late than never|I waited and waited|you are late, [H.name])."
    it was (long past noon|late) when [H] (gave|brought) the [noun] to [R] [P.in]. [R.he] (looked at the clock|did not smile|sighed).
errand_late_end:
    "I (stopped on the way|was $sad|forgot the time)," said [H], "and I am sorry." the next time [H.he!] (ran|went) straight to [R].
    [H] told [S] (the truth|everything) at home. "a [noun] has no legs of its own," said [S].
    [R] forgave [H.him], but from then on [H] (held on to|never put down) what [H.he!] had to carry, were it a [noun] or (a crown|a feather).
errand_resist:
    but [H] (held the [noun] tight|thought of [R]|shook [H.his!] head). "(later|on the way back|not now)," [H.he!] (said|told [H.himself!]) and walked on.
    "[R.name] is waiting," [H] told [H.himself!]. [H.he] (looked the other way|walked even faster|looked back once), and went on.
errand_road:
    there was (still |)[X] (ahead|on the way), but [H] (went on|did not give up|sang to keep up the pace) and kept the [noun] (under [H.his!] coat|safe and dry|close to [H.his!] heart).
    then came [X], and [H.his] legs were tired, but the [noun] was (safe|dry) (under [H.his!] coat|in [H.his!] hands).
errand_give:
    just before noon, [H] (stood before|came to) [R] [P.in]. "(here it is|this is for you)," [H.he!] (panted|said), and (gave|handed) [R.him] the [noun].
    [R] [P.in] (jumped up|cried out) when [H] held out the [noun]. "(just in time|not a minute too soon)!" [R.he!] said.
errand_end:
    on the way home (there was time enough|[H] had all the time in the world) to [tempt], and (that was twice the fun|[S] knew it and smiled).
    [S] (heard about it|was $glad) and gave [H.him] (a coin|an apple|a piece of cake). "[H.name] (can be trusted|has quick feet)," said [R].
    "you (came|ran) all that way for me?" asked [R]. "(thank you|well done)," [R.he!] and walked with [H.him] to (see|look for) [sight].
"""

PLOTS = {"homeward": homeward, "animal": animal, "learn": learn, "plant": plant, "errand": errand}
RULES = HOMEWARD + ANIMAL + LEARN + PLANT + ERRAND
TRAITS = {
    "homeward": ("hasty", "careless", "stubborn", "careful", "patient", "shy"),
    "animal": ("kind", "brave", "shy", "patient", "curious", "cheerful"),
    "learn": ("stubborn", "proud", "hasty", "shy", "patient", "cheerful", "timid"),
    "plant": ("hasty", "curious", "lazy", "patient", "careful", "hard working"),
    "errand": ("careless", "lazy", "greedy", "careful", "honest", "brave"),
}
