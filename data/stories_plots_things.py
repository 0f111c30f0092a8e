"""Plots about things: lost, made as a gift, borrowed and broken, and won by trading."""

from __future__ import annotations

from stories_world import Story, forms


def lost(story: Story) -> None:
    """The hero loses a dear thing and looks for it; a helper, luck or a finder brings it back."""
    world, hero, rng = story.world, story.hero, story.world.rng
    here = world.place()
    wrong = world.place(but=(here.noun,))
    giver = world.adult(jobs=False)
    thing = world.thing(hero)
    careless = hero.trait in ("careless", "hasty")
    spot, *others = rng.sample(here.spots, 3)
    do = rng.choice(here.doing)
    ending = rng.choice(("alone", "helper", "helper", "finder"))
    story.want, story.thing = f"find {hero.his} {thing.adjective} {thing.noun}", thing.noun
    story.reason, story.place = f"it was a present from {giver.name}", here.noun
    story.say("meet")
    story.say("lost_begin", T=thing, P=here, G=giver, do=forms(do[0], ing=do[1]))
    story.say("lost_dear")
    world.go(hero, here)
    world.lose(thing, spot)
    story.obstacle = f"{hero.name} did not know where the {thing.noun} was"
    story.say("lost_slip_careless" if careless else "lost_slip", S=spot)
    world.go(hero, wrong)
    story.say("lost_notice")
    story.maybe("lost_wrong", Q=wrong, X=rng.choice(wrong.spots), Y=rng.choice(JUNK))
    if ending == "finder":
        finder = world.child()
        world.go(finder, here)
        world.find(finder, thing)
        world.go(hero, here)
        world.give(finder, hero, thing)
        story.helper = finder.name
        story.say("lost_finder", F=finder)
    elif ending == "helper":
        friend = world.friend()
        world.do("help", friend, hero)
        world.go(hero, here)
        world.go(friend, here)
        world.find(hero, thing)
        story.helper = friend.name
        story.say("lost_ask", F=friend)
        story.say("lost_together")
    else:
        world.go(hero, here)
        world.find(hero, thing)
        story.say("lost_think")
        story.say("lost_alone", Z=others[0])
    story.say("lost_careless_end" if careless else "lost_end")
    story.outcome = f"{hero.name} got the {thing.noun} back at the {here.noun}"


JUNK = (
    "an old shoe", "a sleepy cat", "a dead leaf", "a broken cup", "a button", "some dust",
    "two snails", "a rusty nail", "a torn glove", "a grey feather", "a piece of string", "a spider",
)  # fmt: skip

LOST = """
lost_begin:
    [when], [H.he] $went [P.to] to [do] and took [T.his] along.
    [when], [H.he] was [do.ing] [P.in] with [T.his] (in [H.his!] hand|under [H.his!] arm|at [H.his!] side).
    [when], [H.he] put [T.his] under [H.his!] arm and $set_off [P.to] to [do].
lost_dear:
    it was a (birthday|birthday|New Year|dear|special) present from [G], and [H] (loved it|took it everywhere|would not sell it for gold|thought it was the best in the world).
    [G] had given it to [H.him] (last winter|last spring|on [H.his!] birthday), and [H.he!] (loved|liked) it more than anything else.
    the [T.noun] was a present from [G], so it was (very dear to|the best thing of all for|worth more than gold to) [H.him].
lost_slip_careless:
    but [H] (saw|heard|chased|ran after) (a small frog|a brown rabbit|a squirrel|a band|a puppy) and forgot (about |)the [T.noun].
    [H] put the [T.noun] down (for a moment|in a hurry|without a thought) and (ran off to play|never looked back|thought of other things|skipped away).
    while [do.ing], [H] (dropped|put down) the [T.noun] and did not (look|see it fall|even turn around).
lost_slip:
    (somebody pushed past|a dog jumped up), and in the noise the [T.noun] (slipped away|fell down|was lost) and [H] did not see it.
    while [H] was [do.ing], [T] (slipped|fell|dropped) (from [H.his!] hands|down), and nobody saw (it|where it went).
    (a cart rolled past|a goat ran by|a crowd came along), and [H] had to jump aside and (dropped|lost) the [T.noun].
lost_notice:
    (at home|at supper|back home|on the way home|in the evening|that night), [H] reached for [T.his] and (it was gone|found nothing|felt only air). $sigh.
    "where is my [T.noun]?" cried [H] (at home|on the way home|at the garden gate|at supper).
    only (at home|at supper|at bed time|on the way back) did [H] see that the [T.noun] was (gone|lost|missing). $sigh.
lost_wrong:
    first [H] (searched|looked) (everywhere |)[Q.in], but [X] there was only [Y].
    [H] (thought|was sure|hoped) it was [Q.in], but (found only|there was only|saw nothing except) [Y] [X].
    [H.he] ran [Q.to] and looked [X], but found (only|nothing but) [Y].
lost_ask:
    "when did you last (have|see|hold) it?" asked [F]. "[P.in], when I was [do.ing]," (said|answered|sighed) [H].
    [F] saw [H.his] (sad|pale|unhappy) face. "let us go back [P.to] and look together," [F.he!] said.
    [F] (listened|thought hard|scratched [F.his!] head) and asked, "did you not have it [P.in]?"
lost_together:
    they $went back [P.to] (together|hand in hand|side by side), and there, [S], lay [T]! $thanks
    together they (searched|looked) [P.in] until [F] (shouted|called), "over there!" It was [T], [S]. $thanks
    ([F] looked high and [H] looked low|[F] took the left side and [H] took the right side|[F] went ahead and [H] came behind), and $soon they found [T] [S]. $thanks
lost_think:
    then [H.he] sat down, (closed [H.his!] eyes|took a deep breath|counted to ten), and (thought|went) through the day (step by step|slowly|from the start).
    [H.he] thought about every step of the day, one (by|after) (one|the other).
    "I (had|still had) it [P.in]," (thought|whispered|said) [H]. "I (must|will|have to) go back."
lost_alone:
    [H] $went back [P.to], looked [Z], and then (found|saw|spied) [T] [S].
    back [P.in] it was not [Z], but [S], and [H] (picked it up|held it tight|kissed it|hugged it).
    it was (nearly dark|late|getting cold) [P.in], but [S] [H] found [T] (at last|safe and sound).
lost_finder:
    the next (day|morning), [H] met (a [F.kid] called|a new [F.kid] at school named) [F.name], who held [T]. "I found it [P.in], [S]," [F.he!] said (and gave it back|and held it out). $thanks
    then (somebody|a [F.kid]) knocked at the door. it was [F.name], who (had been|was) [P.in] and found [T] [S]. "is this yours?" [F.he!] asked. $thanks
lost_careless_end:
    from (that day|then) on, [H] tied the [T.noun] to [H.his!] bag (with a string|) and was (never so|a little less) careless (again|any more|than before).
    "I will (take better care of|watch|look after) my [T.noun]," [H] promised [G], and [H.he!] (did|kept that promise|never lost it again).
    $night, [H] (put|placed) the [T.noun] (on a shelf|in a drawer|beside [H.his!] pillow) and (thought|said|knew), "(first look|think first), then run."
lost_end:
    that (night|evening), [H] slept with [G.his] present (beside [H.him!]|in [H.his!] arms|next to [H.his!] pillow).
    $grin, for [G.his] present was (home|safe|back) again.
    when [G] (came to visit|heard about it), [G.he!] (smiled|laughed|nodded) and said, "good things (come back|find their way home)."
    [H] (went|walked|skipped) home (slowly|with a song|in the last light) and did not let go of the [T.noun] (once|for a moment|all the way).
"""

MATERIALS = (
    # gift, its use, material, where it is found, what can spoil it, how it is made
    ("scarf", "wore it every day", "wool", "barn", "a goat had eaten the wool", "knitted"),
    ("bowl", "ate soup from it every evening", "clay", "river", "the clay was hard and dry", "shaped"),
    ("necklace", "wore it to the dance", "shells", "beach", "a wave washed the shells away", "worked"),
    ("basket", "carried it to market every week", "willow twigs", "river", "the twigs broke again and again", "worked"),
    ("whistle", "blew it on every walk", "a piece of wood", "forest", "the wood was too wet to cut", "carved"),
    ("lamp", "lit it every night", "thick paper", "market", "the rain made the paper soft", "folded"),
    ("puppet", "hung it above the bed", "bits of cloth", "attic", "mice had eaten the cloth", "sewed"),
    ("boat", "sailed it on the pond", "a piece of bark", "forest", "the bark cracked in the middle", "carved"),
    ("blanket", "slept under it all winter", "soft wool", "meadow", "thorns had caught in the wool", "knitted"),
    ("box", "kept letters in it", "some boards", "mill", "the boards were too long", "built"),
    ("kite", "flew it on the hill", "thin paper", "market", "the wind tore the paper", "folded"),
    ("drum", "played it every evening", "an old barrel", "harbour", "the barrel had a hole", "built"),
    ("spoon", "ate soup with it every evening", "a piece of wood", "orchard", "the wood was full of worms", "carved"),
    ("hat", "wore it in the garden", "straw", "barn", "the straw was wet and brown", "worked"),
    ("doll", "gave it a place by the window", "straw and cloth", "barn", "a puppy ran off with the cloth", "sewed"),
    ("cup", "had tea from it every morning", "clay", "hill", "the first cup cracked in the fire", "shaped"),
)  # fmt: skip
OCCASIONS = (
    ("had a birthday soon", "for the birthday"), ("was ill in bed", "as a comfort"),
    ("felt lonely", "to bring back a smile"), ("was going on a long trip", "for the road"),
    ("had helped so often", "as a thank you"), ("was getting married", "for the wedding"),
    ("had moved to a new house", "for the new house"), ("was moving far away", "to say goodbye"),
)  # fmt: skip


def gift(story: Story) -> None:
    """The hero makes a present; the material fails, and patience or a helper mends that."""
    world, hero, rng = story.world, story.hero, story.world.rng
    noun, use, material, where, spoiled, made = rng.choice(MATERIALS)
    receiver = world.adult(jobs=False)
    parent = receiver.name in ("Mother", "Father")
    occasion, aim = rng.choice(OCCASIONS[:5] if parent else OCCASIONS)
    place = world.place(where)
    helper = world.friend() if rng.random() < 0.5 else world.adult()
    proud = hero.trait in ("proud", "stubborn")
    thing = world.thing(None, (noun,))
    story.want, story.reason = f"make a {noun} for {receiver.name}", f"{receiver.name} {occasion}"
    story.thing, story.place, story.obstacle = noun, place.noun, spoiled
    story.say("gift_begin", R=receiver, T=thing, occasion=occasion, aim=aim, M=material)
    story.say("trait")
    story.say("gift_fetch", P=place, spoiled=spoiled)
    world.go(hero, place)
    if hero.trait in ("patient", "hard working") and rng.random() < 0.6:
        story.say("gift_again", made=made)
    else:
        story.helper = helper.name
        if proud:
            story.say("gift_refuse", F=helper)
        world.do("help", helper, hero)
        story.say("gift_help", F=helper)
        story.say("gift_made", made=made)
    thing.owner = thing.holder = hero
    world.give(hero, receiver, thing)
    story.say("gift_give", use=use)
    story.say("gift_proud_end" if proud and story.helper else "gift_end")
    story.outcome = f"{receiver.name} got the {noun} and {use}"


GIFT = """
gift_begin:
    [R] [occasion], and [when] [H] (wanted|decided|made up [H.his!] mind) to make [T.a] [aim].
    [when], [H] heard that [R] [occasion]. "I will make [T.a] for [R.name]," (said|thought|whispered) [H].
    [H] wanted to give [T.a] to [R], who [occasion]. so, [when], [H.he!] (began to plan|set to work|rolled up [H.his!] sleeves).
gift_fetch:
    a [T.noun] is made from [M], so [H] $went [P.to] (to find some|to look|with a bag)(| before lunch| after school). but [spoiled].
    [H.he] $went [P.to] for [M], but (bad luck|oh dear|what bad luck), [spoiled]! $sigh.
    for that [H.he] needed [M]. [P.in], [H.he!] found (just enough|what [H.he!] was looking for|some), but then came bad luck, for [spoiled].
gift_again:
    [H] did not (give up|stop). [H.he!] began again (from the start|the next day|after supper) and [made] (slowly|with care|bit by bit|for three days) until [T] was (done|ready|just right).
    "then I (begin again|start once more|try again)," said [H]. (day after day|evening after evening|for a whole week) [H.he!] [made] until there was [T.a] at last.
gift_refuse:
    [F] (came by|saw it|heard about it) and offered (to help|a helping hand). "no, I can do it alone," said [H], but (nothing|not one thing) went right.
    "shall I help you?" asked [F]. [H] (shook [H.his!] head|said no|turned away), and (an hour|a whole day) later there was still no [T.noun].
gift_help:
    "(you can have some of mine|take some of mine|I have some more at home|I kept some from last year)," said [F](, and [F.he!] (meant it|smiled)|).
    then [F] (brought|gave [H.him]|carried over) more [M] and showed [H.him] (how to begin|how to hold it).
    [H] asked [F] (for help|for advice), and [F] (knew|saw|told [H.him]) (at once |)what to do(| next).
    "(let us|we can) look for more [M]," said [F], and (together|side by side) they found (enough|a whole bag).
gift_made:
    together they (sat down|worked|talked) and [H] [made] (with care|all afternoon|for hours|with warm hands) until (it was done|[T] was ready|the [T.noun] looked just right).
    [F] (held the ends|watched|sang a song) while [H] [made], and $soon [T] was (ready|done|finished).
gift_give:
    [R] opened the (parcel|paper|bag) and (laughed|cried out|could not speak) (with joy|for joy|for a moment). "(did you really make|so you made) this [T.noun] (for me|yourself)?" [R.he!] asked.
    when [H] gave [R.him] [T], [R] (held it up to the light|smiled from ear to ear|kissed [H.him] on both cheeks|had tears of joy).
    "this is the (best|dearest|most lovely) [T.noun] in the (world|whole village|land)," said [R] (and hugged [H.him]|when [H.he] brought it).
gift_end:
    [R.he] [use], and (every time|each time) [H] felt $glad.
    from (then|that day) on, [R] [use](| and told everyone who had made it| and thought of [H.name]).
    [R] [use], just as [H] had hoped (at the start|all along|from the first day).
gift_proud_end:
    [R] [use], and [H] told everyone, "(I did not do it alone|[F.name] helped me|half of it was [F.name])."
    [R] [use], and [H] was no longer too [H.trait] to (ask for help|say thank you|listen)(| to [F.name]).
"""


def borrowed(story: Story) -> None:
    """The hero borrows a thing and breaks it, then tells the truth at once or too late."""
    world, hero, rng = story.world, story.hero, story.world.rng
    owner = world.friend() if rng.random() < 0.6 else world.adult(jobs=False)
    noun, purpose, mishap, where = rng.choice(LOANS)
    thing = world.thing(owner, (noun,))
    place = world.place(*where.split())
    mender = world.adult()
    honest = hero.trait in ("honest", "brave", "kind")
    story.want, story.place = f"borrow the {noun} of {owner.name}", place.noun
    story.thing, story.helper, story.reason = noun, mender.name, f"{hero.name} wanted to {purpose}"
    story.obstacle = f"the {noun} broke"
    story.say("borrow_begin", O=owner, T=thing, P=place, purpose=purpose)
    world.give(owner, hero, thing, lend=True)
    story.maybe("borrow_yes")
    story.say("trait")
    world.go(hero, place)
    world.damage(hero, thing)
    story.say("borrow_break", mishap=mishap)
    if honest:
        story.say("borrow_tell")
        world.do("tell", hero, owner, "the truth")
        story.say("borrow_mend", F=mender)
    else:
        story.say("borrow_hide", S=rng.choice(HIDING))
        story.say("borrow_late")
        world.do("tell", hero, owner, "the truth")
        story.say("borrow_mend", F=mender)
    world.mend(mender, thing)
    world.give(hero, owner, thing, lend=True)
    story.say("borrow_end" if honest else "borrow_late_end")
    story.outcome = f"{hero.name} told the truth and {mender.name} mended the {noun}"


LOANS = (
    # thing, purpose, mishap, where
    ("kite", "fly it in the wind", "a branch tore a hole in it", "hill meadow beach park"),
    ("drum", "play for the crowd", "the side split", "square market park"),
    ("boat", "sail it on the water", "it hit a stone and cracked", "river harbour beach"),
    ("umbrella", "keep dry", "the wind bent it inside out", "market station harbour square"),
    ("watch", "be on time", "it fell on a stone and stopped", "station school market"),
    ("basket", "gather apples", "the handle snapped", "orchard garden"),
    ("basket", "gather mushrooms", "the handle snapped", "forest meadow"),
    ("lamp", "look for the cat", "it fell and cracked", "barn attic mill garden"),
    ("flute", "play a song", "it fell and split", "hill square school park"),
    ("jug", "carry water", "the handle came off", "garden river"),
    ("puppet", "put on a play", "one leg came off", "barn square school"),
    ("coat", "stay warm", "a nail tore the sleeve", "harbour barn station mill"),
    ("necklace", "look fine at the dance", "the string broke", "square barn"),
    ("book", "read about stars", "half the pages fell into a puddle", "park hill garden"),
    ("doll", "play house", "a dog pulled off an arm", "garden barn park"),
    ("bag", "carry shells", "the strap broke", "beach"),
    ("bag", "carry wood", "the strap broke", "forest hill"),
    ("whistle", "call the dog", "it fell and cracked", "park meadow hill"),
)  # fmt: skip

HIDING = ("under the bed", "behind the stove", "in a drawer", "under a blanket", "in the shed")

BORROW = """
borrow_begin:
    [when], [H] wanted to [purpose] [P.in]. "may I borrow your [T.noun]?" [H.he!] asked [O].
    "(please|dear [O.name]), lend me your [T.noun]," [H] (begged|said|asked) [when]. "I want to [purpose] [P.in]."
    [H] had no [T.noun], but [O] had [T.a], and [when] [H] (asked to borrow it|came to borrow it). "I want to [purpose]," [H.he!] said.
borrow_yes:
    "(yes|of course|all right), but (please bring it back|be careful with it|it is dear to me|take good care of it)," said [O](| and smiled| and handed it over).
    [O] (nodded|said yes|gave it to [H.him]) (with a smile|gladly), for [O.he!] (trusted [H.him]|liked to share|had no use for it that day).
borrow_break:
    (first|at first) all went well [P.in]. then [H] (ran too fast|looked away|slipped on the grass|let go for a moment), and [mishap].
    but [P.in] [H] (tripped over a stone|slipped in the mud|was not careful for a moment|turned around too quickly|stumbled), and [mishap]!
    (it was fun|[H.he] had a good time) [P.in] until [H] (jumped over a ditch|swung it around|stumbled), and [mishap].
borrow_tell:
    [H.he] was (afraid|ashamed|$sad), but [H.he!] went straight to [O] and said, "I broke your [T.noun](, and I am sorry|. I will put it right)."
    [H] (thought of a lie|wanted to run away), but no. "I broke it, [O.name]. I am (so |very |)sorry," [H.he!] said.
borrow_hide:
    [H] was (afraid|ashamed|scared) and hid [T] [S]. "(I lost it|I gave it back|the wind took it|a thief took it)," [H.he!] told [O].
    (in a panic|red in the face|quickly), [H] put the broken [T.noun] [S] and (hoped nobody would ask|told no one|said it was lost).
borrow_late:
    but the lie (lay in [H.his] stomach like a stone|kept [H.him] awake), and (the next day|two days later|on the third day) [H.he!] (went to|told|ran to) [O] and told the truth.
    (all night|all day|at every meal) [H] thought of [O.his] (kind|trusting|honest) face, and in the morning [H.he!] (told the truth|brought it back and said sorry|told [O.him] everything).
borrow_mend:
    [O] was (silent|sad|angry) for a moment, and then [O.he!] said, "let us ask [F.name]." [F] (mended it|fixed it|made it whole) with (glue and thread|a little wire).
    [H] took [T] to [F], who mended it (in an hour|with steady hands|before supper|well), and [H.he!] paid (with two days of work|with [H.his!] own coins|by washing the dishes).
    [F] showed [H.him] how to mend [T], and they worked (all evening|until it was dark|side by side) (with glue|with thread and wire|at the table).
borrow_end:
    "(I am glad you told me|a thing can be mended|you were brave to tell me)," said [O], and [O.he!] (lent|gave) [H.him] the [T.noun] (again|once more) the next (day|week).
    [O] took the [T.noun] back and (trusted [H.him] more than before|was not angry any more|said that the truth was worth more than any [T.noun]).
borrow_late_end:
    [O] (forgave [H.him]|was no longer angry|took it back), but it was (a long time|many weeks|a month) before [O.he!] lent [H.him] (anything|a thing) again.
    "(the crack did not hurt me|I can forgive a broken [T.noun]), but the lie (did|is worse)," said [O]. [H] (nodded|understood|never forgot that).
"""

NEEDS = {
    "the baker": (("basket", "for the fresh bread"), ("spoon", "to stir the dough"), ("bowl", "for the cake")),
    "the farmer": (("bell", "for the brown cow"), ("hat", "against the sun"), ("coat", "for the cold mornings")),
    "the gardener": (("jug", "to water the roses"), ("hat", "for hot days"), ("basket", "for the beans")),
    "the fisherman": (("lamp", "for the dark mornings"), ("coat", "against the rain"), ("box", "for the hooks")),
    "the teacher": (("bell", "to call the children"), ("map", "for the wall"), ("book", "to read to the class")),
    "the miller": (("brush", "to sweep up the flour"), ("scarf", "against the wind"), ("bag", "for the flour")),
    "the shepherd": (("whistle", "to call the dog"), ("blanket", "for the cold nights"), ("flute", "to play on the hill")),
    "the weaver": (("comb", "to clean the wool"), ("lamp", "to work at night"), ("cup", "for tea")),
}  # fmt: skip
WISHES = ("kite", "drum", "ball", "boat", "doll", "puppet", "watch", "ring", "necklace", "umbrella")


def trade(story: Story) -> None:
    """The hero has no money and reaches the wished thing by a chain of swaps."""
    world, hero, rng = story.world, story.hero, story.world.rng
    seller = world.adult(only=tuple(name for name in NEEDS if name != "the teacher"))
    middle = world.adult(only=tuple(NEEDS))
    last_noun, last_use = rng.choice(NEEDS[seller.name])
    first_noun, first_use = rng.choice([n for n in NEEDS[middle.name] if n[0] != last_noun])
    wish = world.thing(seller, WISHES)
    own = world.thing(hero, (first_noun,))
    between = world.thing(middle, (last_noun,))
    place = world.place("market", "square", "harbour", "station")
    story.want, story.thing = f"have the {wish.adjective} {wish.noun}", wish.noun
    story.place = place.noun
    story.reason, story.helper = rng.choice(WHY), middle.name
    story.obstacle = f"{hero.name} had no money"
    world.go(hero, place)
    story.say("trade_begin", T=wish, M=seller, P=place, why=story.reason)
    story.say("trade_price", B=between, use=last_use)
    story.say("trade_think", A=own)
    world.give(hero, middle, own)
    world.give(middle, hero, between)
    story.say("trade_swap", F=middle, A=own, B=between, first=first_use)
    world.give(hero, seller, between)
    world.give(seller, hero, wish)
    story.say("trade_deal", T=wish, B=between)
    story.say("trade_end")
    story.outcome = f"{hero.name} got the {wish.noun} for the {between.noun}"


WHY = (
    "all the others had one", "it shone in the sun", "it looked just like one in a dream",
    "it was the only one of its kind", "the holidays were near", "there was nothing like it at home",
    "the old one at home was broken", "it made the heart beat faster",
)  # fmt: skip

TRADE = """
trade_begin:
    [when], [H] (saw|spied|found) [T.a] on a stall [P.in]. [H.he!] wanted to have it because [why].
    [P.in] [M] was selling [T.a]. [when], [H] stopped and (stared|looked|could not walk on), and [H.he!] wanted it because [why].
    "(how I want|I must have|I dream of) that [T.full]," said [H] [when]. [M] was selling it [P.in]. [H] wanted it because [why].
    [when], [H] $went [P.to], where [M] had [T.a] (for sale|on the table|on a cloth). [H] (longed for it|wanted it) because [why].
trade_price:
    "I have no (money|coins)," said [H]. "then bring me [B.a]," said [M]. "I need one [use]."
    [H.his] pockets were empty. "(I do not need money|keep your coins|money is not all)," said [M]. "what I need is [B.a], [use]."
    "what does it cost?" asked [H]. "(no|not) money," said [M]. "I need [B.a] [use]."
trade_think:
    [H] had no [B.noun], but [H.he!] (had|owned) [A.a] (and a good head|and an idea|that [H.he!] seldom used).
    at home [H.he] (had|found|owned) only [A.a], but (that was a start|that was something|it was a good one).
    [H] had no [B.noun], only [A.a], and (thought hard|made a plan|had a clever idea).
trade_swap:
    [H] $went to [F], who (had|owned) [B.a] and (was looking for|needed) [A.a] [first]. they shook hands on it(| at once| with a laugh| and both were happy).
    "(who needs|does anyone need|who wants|who could use) [A.a]?" asked [H] (in every street|at every door). "I do, [first]," said [F], "and I can give you [B.a]."
    [F] looked at the [A.noun]. "(just what I need|I could use that) [first]," [F.he!] said, and gave [H.him] [B.a] for it.
trade_deal:
    [H] ran back [P.to] (before it got dark|with red cheeks|as fast as [H.he!] could) and (gave|handed) the [B.noun] to [M]. "(well done|a deal is a deal|you are a clever [H.kid])!" said [M], and the [T.noun] belonged to [H.him] now.
    [M] (laughed|clapped|was $glad) when [H] brought the [B.noun], and [M.he!] (put|laid) the [T.noun] in [H.his] hands.
trade_end:
    so [H] had the [T.noun], [F] had the [A.noun], and [M] had the [B.noun], and (all three were happy|nobody had paid a coin|everyone had what they needed).
    [H] (carried|took) the [T.noun] home and (laughed|thought), "(an empty pocket is no wall|a good swap makes three people glad|a clever head is better than coins)."
    without one coin [H] had (got|won) [T], and [H.he!] (sang|skipped|smiled) all the way home.
"""
PLOTS = {"lost": lost, "gift": gift, "borrowed": borrowed, "trade": trade}
RULES = LOST + GIFT + BORROW + TRADE
TRAITS = {
    "lost": ("careless", "careless", "hasty", "cheerful", "curious", "shy", "patient", "kind"),
    "gift": ("patient", "hard working", "proud", "stubborn", "kind", "shy"),
    "borrowed": ("honest", "brave", "kind", "timid", "careless", "shy", "proud"),
    "trade": ("curious", "cheerful", "patient", "brave"),
}
