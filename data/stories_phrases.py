"""Phrases that every plot shares: openings, traits, feelings, thanks."""

from __future__ import annotations

import random

WEATHER = {
    "sunny": "spring summer", "bright": "spring summer autumn", "windy": "spring autumn",
    "warm": "spring summer", "cool": "spring autumn", "grey": "spring autumn",
    "quiet": "spring summer autumn", "fine": "spring summer autumn",
}  # fmt: skip
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def opening(rng: random.Random) -> str:
    """When a story begins: ``One windy morning in autumn`` or ``On a fine Friday``."""
    weather = rng.choice(list(WEATHER))
    season = rng.choice(WEATHER[weather].split())
    part = rng.choice(("morning", "day"))
    return rng.choice((
        f"one {weather} {part}", f"one {weather} {part} in {season}", f"early one {weather} morning",
        f"on a {weather} {rng.choice(DAYS)}", f"on a {weather} {season} {part}",
        f"one {season} {part}", f"on the first {weather} day of {season}",
    ))  # fmt: skip


TRAITS = {
    "careless": "left [H.his!] things everywhere|often forgot where [H.he!] put things|thought about ten things at once|never looked behind [H.him!]|lost something almost every week",
    "careful": "checked every knot twice|always looked before [H.he!] jumped|kept [H.his!] things in neat rows|closed every gate behind [H.him!]",
    "patient": "could sit still for hours|never minded slow work|liked to do things well|could wait all day for a fish",
    "hasty": "ran when others walked|could not wait for anything|ate [H.his!] soup before it was cool|never finished a thought",
    "kind": "could not bear to see anyone sad|fed every hungry cat|shared every apple|always stopped to help",
    "greedy": "always took the biggest slice|never left a crumb for others|counted [H.his!] sweets twice a day|found it hard to share",
    "proud": "liked to be the best at everything|never asked for help|thought nobody knew better|loved to hear [H.his!] own name",
    "shy": "spoke in a very small voice|hid behind the door when guests came|found it hard to talk to others|blushed at every question",
    "brave": "climbed the tallest trees|walked through the dark without a lamp|was not afraid of thunder|held spiders in [H.his!] hand",
    "timid": "slept with a candle near the bed|jumped at every noise|was afraid of the dark|pulled the blanket over [H.his!] head at night",
    "lazy": "slept until noon|liked to lie in the sun|left every job for later|yawned when there was work to do",
    "honest": "could not tell a lie|always said what was true|kept every secret and told no lies",
    "cheerful": "sang all day long|laughed at the rain|had a smile for everyone|whistled on the way to school",
    "curious": "asked a hundred questions a day|opened every door and every box|wanted to know how everything worked",
    "hard working": "got up with the sun|tried again when something went wrong|never left a job half done",
    "stubborn": "never changed [H.his!] mind|would not take advice|said no before [H.he!] listened",
}

SHARED = """
meet:
    [H] was a [H.trait] [H.kid] who ([who]).
    there (was once|once was|lived) a [H.trait] [H.kid] (called|named) [H] who ([who]).
    everyone (in the village|in the street|at school|) knew [H], a [H.trait] [H.kid] who ([who]).
    [H] (lived near the [home]|lived in a (small|yellow|white|tall|stone) house by the [home]) and ([who]).
trait:
    [H] was (a [H.trait] [H.kid] who|[H.trait] and) ([who]).
    [H] had always been [H.trait] and ([who]).
    now [H] was a [H.trait] [H.kid] who ([who]).
    (everyone|the whole street|the whole school|[H.his] teacher) (knew|said) that [H.name] was a [H.trait] [H.kid] who ([who]).
    [H.name], who ([who]), was a [H.trait] [H.kid].
    it was well known that [H.name] was [H.trait] and ([who]).
thanks:
    "thank you(|, [F.name]| so much| for your help)!" said [H].
    [H] thanked [F] (with a hug|with a big smile|again and again|from the bottom of [H.his!] heart|and meant it).
    "(I will not forget this|I am so glad you came|you are a good friend|what would I do without you)(|, [F.name])," said [H].
    [H] (hugged [F.him]|shook [F.his] hand|gave [F.him] a big hug) and (laughed|smiled|said thank you).
glad:
    (very |so |)(glad|happy|pleased|proud)
sad:
    (very |so |)(sad|sorry|unhappy)
went:
    went
    walked
    ran
    hurried
set_off:
    set off
    started out
    walked off
    hurried off
at_once:
    at once
    right away
    without a word
    as fast as [H.he!] could
soon:
    soon
    after a while
    a little later
    before long
    in the end
    at last
sigh:
    [H] (sighed|felt a lump in [H.his!] throat|almost cried|bit [H.his!] lip|sat down on the ground|hung [H.his!] head|wiped away a tear|did not know what to do)
grin:
    [H] (laughed|smiled|jumped for joy|clapped [H.his!] hands|danced around|felt warm inside|beamed)
night:
    that (night|evening)
    before bed
    at supper
    when the stars came out
"""
