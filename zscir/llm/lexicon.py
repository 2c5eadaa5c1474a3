"""The English words that the template backend knows: attributes, places, links between phrases, synonyms."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """A set of words written as one text."""
    return frozenset(text.split())


ARTICLES = word_set("a an the this that these those some his her their its our my your one's another")
NUMBER_WORDS = {
    "one": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6, "7": 7, "8": 8, "9": 9, "10": 10, "pair": 2, "couple": 2,
}  # fmt: skip
COUNT_NAMES = {
    number: word
    for word, number in reversed(NUMBER_WORDS.items())
    if word.isalpha() and word not in ("single", "pair", "couple")
}

_ATTRIBUTES = {
    "colour": """red orange yellow green blue purple pink black white grey brown beige cream golden gold silver violet
        turquoise teal navy maroon crimson scarlet magenta cyan indigo ivory tan khaki olive lilac lavender burgundy
        blond blonde ginger colourful multicoloured transparent""",
    "size": """small big tiny huge giant medium long short tall wide narrow thick thin miniature enormous massive
        oversized deep shallow""",
    "pattern": """plain striped spotted checkered checked plaid floral patterned solid printed embroidered tartan
        polka-dot dotty paisley zebra leopard camouflage""",
    "material": """wooden metal plastic glass leather cotton silk wool woollen denim stone marble concrete paper
        ceramic porcelain steel brick velvet linen rubber tiled straw bamboo lace satin knitted clay bronze copper""",
    "age": "old young new antique vintage modern ancient retro contemporary",
    "state": """empty full open closed broken dirty clean wet dry asleep awake happy sad angry smiling sleeping hot cold
        fresh rotten ripe burnt snowy rainy sunny cloudy foggy bare naked blurry bright dark""",
}
ATTRIBUTE_KIND = {word: kind for kind, text in _ATTRIBUTES.items() for word in text.split()}
COMPARATIVES = {
    "small": "smaller",
    "big": "bigger",
    "tiny": "smaller",
    "huge": "bigger",
    "long": "longer",
    "short": "shorter",
    "tall": "taller",
    "wide": "wider",
    "narrow": "narrower",
    "thick": "thicker",
    "thin": "thinner",
}

SYNONYMS = {
    "ball": "sphere", "large": "big", "little": "small", "dotted": "spotted", "gray": "grey", "couch": "sofa",
    "kid": "child", "picture": "photo", "image": "photo", "photograph": "photo", "puppy": "dog", "kitten": "cat",
    "automobile": "car", "bike": "bicycle", "lady": "woman", "guy": "man", "colorful": "colourful", "timber": "wooden",
    "sea": "ocean", "road": "street", "woods": "forest", "rug": "carpet", "tee": "t-shirt", "tshirt": "t-shirt",
    "airplane": "plane", "aeroplane": "plane", "television": "tv", "phone": "telephone",
    "multicolored": "multicoloured",
}  # fmt: skip
IRREGULAR_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "mice": "mouse",
    "leaves": "leaf", "knives": "knife", "wolves": "wolf", "teeth": "tooth", "geese": "goose", "shelves": "shelf",
}  # fmt: skip
UNCOUNTABLE = word_set("""
    grass snow sand water fruit food hair smoke fire rain fog ice wood bread coffee tea wine beer furniture
    clothing jewelry jewellery traffic sky makeup luggage rice cheese milk sunlight darkness sunset sunrise night
    daylight autumn winter summer spring hay lawn mud gravel
""")

# Nouns that name where a scene is, with the preposition that a user would put before them.
PLACE_PREPOSITIONS = {
    **dict.fromkeys(
        word_set("""
    grass table desk floor ground carpet beach street shelf bed bench sofa stage snow sand lawn plate tray roof
    bridge branch pavement gravel mud counter
"""),
        "on",
    ),
    **dict.fromkeys(
        word_set("""
    room kitchen bedroom bathroom garden park forest field water ocean river lake city town office studio desert
    sky rain fog winter summer autumn spring restaurant classroom gym hall jungle meadow market stadium pool
"""),
        "in",
    ),
    **dict.fromkeys(word_set("sunset sunrise dusk dawn night noon station airport zoo home"), "at"),
    **dict.fromkeys(word_set("wall background backdrop"), "against"),
}
TIMES = word_set("sunrise sunset dusk dawn night noon rain fog winter summer autumn spring morning evening day")
MULTIWORD_LINKS = (
    "in front of", "on top of", "to the left of", "to the right of", "on the left of", "on the right of", "left of",
    "right of", "next to", "close to", "out of", "because of", "inside of", "outside of", "as well as", "along with",
    "together with", "covered with", "covered in", "filled with", "full of", "surrounded by", "dressed in",
)  # fmt: skip
LOCATIVES = word_set("""
    on in at under behind against near beside by over above below inside along across around between beneath
    outside through from into onto upon toward towards among atop before after during up down underneath
    in-front-of on-top-of to-the-left-of to-the-right-of on-the-left-of on-the-right-of left-of right-of next-to
    close-to out-of inside-of outside-of
""")
JOINERS = word_set("""
    and with plus featuring including containing as-well-as along-with together-with covered-with covered-in
    filled-with full-of surrounded-by dressed-in but or & + x vs without
""")
OTHER_LINKS = word_set("""
    is are was were be being has have had while as that which who where when for to than like because-of there it
    he she they very just not also then so via de la
""")
# "red color", "ball shape": how shops list attributes; the word after the attribute only names its kind.
ATTRIBUTE_LABELS = word_set("color colour pattern size material texture finish style shape shaped")
POSITIONS = word_set("left right top bottom corner centre center middle foreground upper lower front back side")
GENERIC_NOUNS = word_set("object thing item something stuff photo close-up closeup view shot scene variety group set")

_VERBS = """
    run sit stand lie walk jump ride hold wear play look eat drink fly swim sleep lean smile hang rest drive carry
    sail ski surf climb dance sing cook read write talk pose kick throw catch pull push park wait work hug kiss
    pet watch float grow cross face skate wave chase laugh cry touch use show make take shake arrive celebrate
    perform smoke train dive bark graze fight cycle skateboard
"""
_IRREGULAR_PARTICIPLES = {
    "run": "running",
    "sit": "sitting",
    "swim": "swimming",
    "hug": "hugging",
    "pet": "petting",
    "lie": "lying",
}


def _forms(verb: str) -> tuple[str, str]:
    third = (
        verb[:-1] + "ies" if verb in ("fly", "cry") else verb + ("es" if verb.endswith(("ss", "sh", "tch")) else "s")
    )
    return third, _IRREGULAR_PARTICIPLES.get(verb) or verb.removesuffix("e") + "ing"


# "cross" and "ring" are things before they are verbs, so only inflected forms count.
VERB_FORMS = {form: verb for verb in _VERBS.split() for form in _forms(verb)}
PARTICIPLES = {verb: form for form, verb in VERB_FORMS.items() if form.endswith("ing")}
NOT_VERBS = word_set("""
    ring wing king string building morning evening ceiling painting wedding clothing thing swing spring railing
    awning lightning dining living swimming earring pudding stuffing frosting icing parking crossing meeting
    sewing boxing shopping racing training engineering bring bling during viking sibling duckling darling crosses
    shows looks works plays faces waves parks rests uses watches drinks rings
""")

_AGENCY_WORDS = "photos?|images?|pictures?|vectors?|footage|illustrations?|wallpapers?"
_PICTURES = (
    "photo(?:graph)?|picture|image|illustration|close[- ]up|painting|drawing|snapshot|view|shot|portrait|silhouette"
)
BOILERPLATE = (
    r"https?://\S+",
    r"www\.\S+",
    r"<[^>]{0,200}>",
    r"[#@]\w+",
    r"&[a-z]{2,6};",
    r"\.(?:jpe?g|png|gif|webp)\b",
    rf"\b(?:royalty[- ]free|stock|hd|4k|high[- ]res(?:olution)?|free) (?:stock )?(?:{_AGENCY_WORDS})\b",
    rf"\b(?:{_PICTURES})s? (?:of|showing)\b",
    r"\b(?:this is|there (?:is|are)|here (?:is|are)|we see|you can see)\b",
    r"\b(?:stock photo|clip ?art|wallpaper|photo by \w+|via \w+|getty images|shutterstock|alamy|istock|unsplash)\b",
)
