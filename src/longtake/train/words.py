"""Words on cards: letter strings to train on, English words to test on (never trained on)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VOWELS = "AEIOU"
CONSONANTS = "BCDFGHJKLMNPQRSTVWXYZ"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LIST = (
    "ACORN AMBER ANKLE APPLE ARROW ATLAS BADGE BAKER BANJO BASIL BEACH BERRY BIRCH BISON "
    "BLOOM BOAT BRICK BROOM CABIN CACTUS CAMEL CANOE CARROT CASTLE CEDAR CHAIR CHERRY "
    "CLOUD COBRA COFFEE COMET CORAL COTTON CRANE CROWN DAISY DELTA DESERT DINGO DOVE DRUM "
    "EAGLE EMBER ENGINE FABLE FALCON FERN FIDDLE FJORD FLUTE FOREST FOX GARDEN GECKO "
    "GHOST GIANT GLASS GOOSE GRAPE GUITAR HARBOR HAWK HAZEL HERON HONEY HORSE HOTEL ICE "
    "IGLOO IRIS ISLAND IVORY JACKET JAGUAR JAZZ JELLY JEWEL JUNGLE KAYAK KETTLE KIWI "
    "KOALA LADDER LAGOON LEMON LETTER LILAC LION LOTUS MANGO MAPLE MARBLE MEADOW MELON "
    "MOON MOTH MUSIC NECTAR NIGHT NUTMEG OASIS OCEAN OLIVE ONION OPERA ORBIT ORCHID OTTER "
    "OWL OXYGEN PANDA PAPER PEACH PEARL PEPPER PIANO PILOT PIRATE PIZZA PLANET PLUM PONY "
    "POPPY PUZZLE QUARTZ QUEEN QUILT RABBIT RADIO RAVEN RIVER ROBIN ROCKET ROSE SADDLE "
    "SALMON SHELL SILVER SPOON SQUID STORM SUGAR SUN SWAN TABLE TEA TIGER TOAST TOWER "
    "TRAIN TULIP TURTLE UMPIRE UNION VALLEY VELVET VIOLIN VIXEN WAFFLE WALNUT WATER WHALE "
    "WILLOW WINTER WIZARD WOLF XENON YACHT YARN YELLOW YOGURT ZEBRA ZIGZAG ZOO"
)
TEST_WORDS: Sequence[str] = tuple(_LIST.split(" "))
_HELD_OUT = frozenset(TEST_WORDS)


def random_word(rng: np.random.Generator, shortest: int = 3) -> str:
    """A string of up to 6 capitals, no test word: uniform letters, or like speech."""
    while True:
        length = int(rng.integers(shortest, 7))
        if rng.uniform() < 0.6:
            word = "".join(LETTERS[i] for i in rng.integers(0, 26, length))
        else:
            word = _pronounceable(rng, length)
        if word not in _HELD_OUT:
            return word


def _pronounceable(rng: np.random.Generator, length: int) -> str:
    """Consonants and vowels in turn, now and then with a doubled letter, as in real words."""
    start = int(rng.integers(2))
    letters = [
        (VOWELS if (i + start) % 2 else CONSONANTS)[int(rng.integers(5 if (i + start) % 2 else 21))]
        for i in range(length)
    ]
    if rng.uniform() < 0.4:
        double = int(rng.integers(1, length))
        letters[double] = letters[double - 1]
    return "".join(letters)
