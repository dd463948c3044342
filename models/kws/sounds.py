"""Sound for the keyword spotter: words spoken by espeak-ng, noise, and utterances of one second made of both.

Voices are a variant (a timbre) with an accent. The variants of `HELD_OUT` (of klatt, steph and Gene all there are) are
never heard in training; neither are the accent `en-gb-scotland` and the words of `OTHER_EVAL`. Everything follows from seeds.
"""

import io
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

RATE = 16_000
SECOND = RATE
KEYWORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
LABELS = KEYWORDS + ["unknown", "silence"]
UNKNOWN, SILENCE = len(KEYWORDS), len(KEYWORDS) + 1

# Not a keyword: words of training, and others that only the evaluation has.
OTHER_TRAIN = (
    "zero one two three four five six seven eight nine ten cat dog bird house tree happy wow marvin sheila bed follow "
    "learn visual forward backward water table window garden music paper orange yellow purple silver morning evening "
    "hello please thanks today tomorrow kitchen bathroom heater light lamp door open close start again maybe never "
    "always question answer number computer phone river mountain summer winter doctor teacher apple coffee sugar butter "
    "cheese book road town note show low gone lift rift rite wrap cup pop shop cop duff cough dawn gown noun "
    "guess less chess nest knot mow slow grow old loft light tight write awe own"
).split()
OTHER_EVAL = (
    "red blue green white camera radio pencil bottle market island planet engine rocket village brother sister "
    "monday friday january august elephant tiger potato tomato lemon pepper ladder hammer circle square"
).split()

ACCENTS = ["en-gb", "en-us", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"]
ACCENT_HELD_OUT = "en-gb-scotland"
HELD_OUT = (
    "Andrea Annie belinda benjamin david Hugo john klatt klatt2 klatt3 klatt4 klatt5 klatt6 marcelo Michael norbert "
    "pablo steph steph2 steph3 victor m4 f3 grandpa Gene Gene2 sandro"
).split()
TRAINED = (
    "adam Alex Alicia Andy antonio aunty boris caleb Denis Diogo ed edward edward2 Gustave Henrique iven iven2 iven3 "
    "iven4 Jacky kaukovalta Lee linda Marco Mario max michel miguel mike Nguyen paul pedro quincy rob robert robosoft "
    "robosoft3 robosoft5 robosoft7 Storm Tweaky zac anika f1 f2 f4 f5 grandma m1 m2 m3 m5 m6 m7 m8 shelby travis croak"
).split()


def speak(word, voice, pitch, speed):
    """A word as float samples in [-1, 1] at RATE, without the silence around it."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    sound = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with wave.open(io.BytesIO(sound)) as file:
        rate, pcm = file.getframerate(), np.frombuffer(file.readframes(1 << 24), "<i2")
    samples = resample_poly(pcm / 32768.0, 320, 441) if rate == 22_050 else resample_poly(pcm / 32768.0, RATE, rate)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[max(loud[0] - 80, 0) : loud[-1] + 80]


def plan(seed, per_keyword, others, variants, accents, words):
    """What is spoken: (label, word, voice, pitch, speed)."""
    random = np.random.default_rng(seed)
    spoken = [(label, word) for label, word in enumerate(KEYWORDS) for _ in range(per_keyword)]
    spoken += [(UNKNOWN, words[at % len(words)]) for at in range(others)]
    listed = []
    for label, word in spoken:
        variant, accent = random.choice(variants), random.choice(accents)
        listed.append((label, word + random.choice(["", "!", "?", "."]), f"{accent}+{variant}",
                       int(random.integers(20, 85)), int(random.integers(110, 210))))
    return listed


def spoken(listed):
    """The words of a plan as (label, samples); those longer than 0.9 s are left out."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda item: (item[0], speak(*item[1:])), listed)
        return [(label, samples) for label, samples in made if len(samples) <= 0.9 * SECOND]


def training_words(cache):
    """Words of training as (label, samples); kept in the file `cache`, since speaking them takes minutes."""
    cache = Path(cache)
    if not cache.exists():
        made = spoken(plan(1, 560, 2200, TRAINED, ACCENTS, OTHER_TRAIN))
        pcm = [np.round(samples * 32767 / max(1.0, np.abs(samples).max())).astype(np.int16) for _, samples in made]
        np.savez_compressed(cache, label=[label for label, _ in made], length=[len(p) for p in pcm], pcm=np.concatenate(pcm))
    kept = np.load(cache)
    ends = np.cumsum(kept["length"])
    pcm = kept["pcm"].astype(np.float32) / 32768
    return [(int(label), pcm[end - n : end]) for label, n, end in zip(kept["label"], kept["length"], ends)]


def noise(random, count):
    """Noise of a random colour and kind, its root mean square 1."""
    kind = random.integers(0, 4)
    spectrum = np.fft.rfft(random.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    # White, pink, brown, or a band of it.
    slope = [0.0, 0.5, 1.0, random.uniform(0, 1)][kind]
    spectrum *= np.maximum(hertz, 20.0) ** -slope
    if kind == 3:
        low = random.uniform(50, 2000)
        spectrum[(hertz < low) | (hertz > low * random.uniform(1.5, 8))] *= 0.05
    sound = np.fft.irfft(spectrum, count)
    if random.random() < 0.2:
        mains = random.choice([50.0, 60.0])
        time = np.arange(count) / RATE
        hum = sum(np.sin(2 * np.pi * mains * n * time + random.uniform(0, 6)) / n for n in range(1, 6))
        sound = sound / sound.std() + random.uniform(0.3, 1.5) * hum / hum.std()
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-12)


def resampled(samples, factor):
    """Faster and higher, or slower and lower."""
    at = np.arange(0, len(samples) - 1, factor)
    return np.interp(at, np.arange(len(samples)), samples)


def utterance(random, samples, whole=True, make=noise):
    """A second of sound with a word (none where `samples` is None) and noise, as int16.

    Of a word that is not `whole`, what lies inside is at most 30 % of it: at the edges of the windows of a stream. `make`
    makes the noise.
    """
    if samples is None:
        if random.random() < 0.1:
            return np.zeros(SECOND, np.int16)
        level = 10 ** (random.uniform(-75, -25) / 20)
        return clipped(level * make(random, SECOND))
    sound = np.zeros(SECOND)
    if whole:
        at = random.integers(0, SECOND - len(samples) + 1)
        sound[at : at + len(samples)] = samples
    else:
        part = int(random.uniform(0.05, 0.3) * len(samples))
        if random.random() < 0.5:
            sound[:part] = samples[len(samples) - part :]
        else:
            sound[SECOND - part :] = samples[:part]
    sound /= np.abs(samples).max() + 1e-9
    level = np.sqrt(np.mean((samples / (np.abs(samples).max() + 1e-9)) ** 2))
    loud = 10 ** (random.uniform(-30, -1) / 20)
    below = 10 ** (-random.uniform(8, 45) / 20)
    return clipped(loud * (sound + level * below * make(random, SECOND)))


def clipped(samples):
    return np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)


def evaluation(per_keyword=50, others=70, silences=30):
    """Utterances of unheard voices: int16 [utterances, SECOND], and their labels."""
    listed = plan(2, per_keyword + 6, others + 10, HELD_OUT, ACCENTS + [ACCENT_HELD_OUT] * 2, OTHER_EVAL)
    words, random = spoken(listed), np.random.default_rng(3)
    pcm, labels = [], []
    for label, wanted in [(label, per_keyword) for label in range(len(KEYWORDS))] + [(UNKNOWN, others)]:
        of_label = [samples for own, samples in words if own == label][:wanted]
        pcm += [utterance(random, samples) for samples in of_label]
        labels += [label] * len(of_label)
    pcm += [utterance(random, None) for _ in range(silences)]
    labels += [SILENCE] * silences
    order = random.permutation(len(pcm))
    return np.stack(pcm)[order], np.array(labels)[order]
