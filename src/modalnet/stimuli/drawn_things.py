"""How faces, houses and objects are drawn.

Each function draws one kind of thing into a frame; the generator settles the size and presence of its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modalnet.stimuli.drawing import Drawing, Frame, other_colour

if TYPE_CHECKING:
    import numpy as np

    from modalnet.stimuli.rendering import Picture

_SKINS = ((255, 224, 196), (240, 200, 160), (224, 172, 125), (190, 135, 90), (140, 95, 60), (95, 62, 42))


def draw_face(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    hair = drawing.colour(picture.colour)
    skin = _SKINS[rng.integers(len(_SKINS))]
    dark = (30, 24, 22)
    long = rng.random() < 0.5
    drawing.ellipse(*frame.box(0.06, 0.0, 0.94, 0.8), hair)
    if long:
        drawing.box(*frame.box(0.06, 0.4, 0.94, rng.uniform(0.75, 1.0)), hair)
    drawing.ellipse(*frame.box(0.14, 0.12, 0.86, 1.0), skin)
    if rng.random() < 0.5:
        drawing.polygon(frame((0.16, 0.42), (0.2, 0.16), (0.5, 0.08), (0.8, 0.16), (0.84, 0.42), (0.5, 0.26)), hair)
    gap, high, eye = rng.uniform(0.15, 0.2), rng.uniform(0.44, 0.5), rng.uniform(0.06, 0.085)
    for side in (-1, 1):
        centre = 0.5 + side * gap
        drawing.ellipse(*frame.box(centre - 1.3 * eye, high - eye, centre + 1.3 * eye, high + eye), (250, 250, 250))
        drawing.ellipse(*frame.box(centre - 0.7 * eye, high - 0.8 * eye, centre + 0.7 * eye, high + 0.8 * eye), dark)
        slant = 0.03 if picture.mood == "sad" else -0.01
        brow = frame((centre - side * 0.08, high - 0.11 - slant), (centre + side * 0.09, high - 0.11 + slant))
        drawing.line(brow, dark, 0.02)
    nose = rng.uniform(0.6, 0.66)
    drawing.line(frame((0.5, high + 0.03), (0.46, nose), (0.52, nose)), tuple(int(0.7 * value) for value in skin), 0.02)
    wide = rng.uniform(0.13, 0.18)
    lips = (170, 40, 50)
    if picture.mood == "sad":
        drawing.arc(frame.box(0.5 - wide, 0.78, 0.5 + wide, 0.98), 190, 350, lips, 0.035)
    else:
        drawing.arc(frame.box(0.5 - wide, 0.62, 0.5 + wide, 0.86), 10, 170, lips, 0.035)


def draw_house(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    wall = drawing.colour(picture.colour)
    second = drawing.colour(other_colour(rng, picture.colour))
    third = drawing.colour(other_colour(rng, picture.colour))
    eaves = rng.uniform(0.32, 0.48)
    if rng.random() < 0.6:
        left = rng.uniform(0.15, 0.7)
        drawing.box(*frame.box(left, 0.02, left + 0.12, eaves), third)
    drawing.box(*frame.box(0.08, eaves, 0.92, 1.0), wall)
    if rng.random() < 0.6:
        drawing.polygon(frame((0.0, eaves), (0.5, 0.0), (1.0, eaves)), second)
    else:
        drawing.polygon(frame((0.0, eaves), (0.2, 0.08), (0.8, 0.08), (1.0, eaves)), second)
    door = rng.choice([0.16, 0.42, 0.66])
    drawing.box(*frame.box(door, 0.72, door + 0.17, 1.0), third)
    glass = (200, 228, 245) if rng.random() < 0.6 else (70, 80, 95)
    for column in (0.16, 0.42, 0.68):
        drawing.box(*frame.box(column, eaves + 0.06, column + 0.15, eaves + 0.2), glass)
        if abs(column - door) > 0.1 and rng.random() < 0.7:
            drawing.box(*frame.box(column, 0.74, column + 0.15, 0.88), glass)


def draw_car(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    body = drawing.colour(picture.colour)
    drawing.polygon(frame((0.2, 0.5), (0.3, 0.25), (0.68, 0.25), (0.82, 0.5)), body)
    drawing.box(*frame.box(0.0, 0.48, 1.0, 0.74), body)
    glass = (205, 228, 240) if rng.random() < 0.6 else (60, 70, 85)
    drawing.polygon(frame((0.28, 0.48), (0.34, 0.3), (0.48, 0.3), (0.48, 0.48)), glass)
    drawing.polygon(frame((0.53, 0.48), (0.53, 0.3), (0.65, 0.3), (0.74, 0.48)), glass)
    for centre in (0.23, 0.77):
        drawing.ellipse(*frame.box(centre - 0.12, 0.62, centre + 0.12, 0.86), (25, 25, 28))
        drawing.ellipse(*frame.box(centre - 0.05, 0.69, centre + 0.05, 0.79), (190, 190, 190))


def draw_cup(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    body = drawing.colour(picture.colour)
    drawing.arc(frame.box(0.55, 0.3, 1.0, 0.75), 0, 360, body, 0.06)
    drawing.polygon(frame((0.05, 0.12), (0.78, 0.12), (0.7, 0.95), (0.13, 0.95)), body)
    drawing.ellipse(*frame.box(0.05, 0.04, 0.78, 0.2), drawing.colour(other_colour(rng, picture.colour)))


def draw_chair(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    body = drawing.colour(picture.colour)
    thick = rng.uniform(0.08, 0.12)
    drawing.box(*frame.box(0.1, 0.0, 0.1 + thick, 1.0), body)
    drawing.box(*frame.box(0.1, 0.5, 0.9, 0.5 + 1.2 * thick), body)
    drawing.box(*frame.box(0.9 - thick, 0.5, 0.9, 1.0), body)
    if rng.random() < 0.5:
        drawing.box(*frame.box(0.1, 0.75, 0.9, 0.75 + 0.5 * thick), body)


def draw_lamp(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    shade = drawing.colour(picture.colour)
    stand = drawing.colour(other_colour(rng, picture.colour))
    drawing.box(*frame.box(0.46, 0.4, 0.54, 0.92), stand)
    drawing.ellipse(*frame.box(0.24, 0.86, 0.76, 1.0), stand)
    top = rng.uniform(0.12, 0.2)
    drawing.polygon(frame((0.5 - top, 0.0), (0.5 + top, 0.0), (0.92, 0.46), (0.08, 0.46)), shade)


def draw_boat(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    hull = drawing.colour(picture.colour)
    sail = drawing.colour(other_colour(rng, picture.colour))
    drawing.box(*frame.box(0.47, 0.0, 0.52, 0.72), (70, 50, 35))
    drawing.polygon(frame((0.52, 0.04), (0.52, 0.62), (rng.uniform(0.84, 0.98), 0.62)), sail)
    drawing.polygon(frame((0.0, 0.7), (1.0, 0.7), (0.82, 1.0), (0.18, 1.0)), hull)


def draw_bottle(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    body = drawing.colour(picture.colour)
    other = drawing.colour(other_colour(rng, picture.colour))
    shoulder = rng.uniform(0.3, 0.42)
    drawing.box(*frame.box(0.42, 0.05, 0.58, shoulder), body)
    drawing.polygon(
        frame((0.42, shoulder - 0.06), (0.58, shoulder - 0.06), (0.72, shoulder + 0.1), (0.28, shoulder + 0.1)), body
    )
    drawing.box(*frame.box(0.28, shoulder + 0.08, 0.72, 1.0), body)
    drawing.box(*frame.box(0.4, 0.0, 0.6, 0.07), other)
    drawing.box(*frame.box(0.28, 0.6, 0.72, 0.82), other)


def draw_umbrella(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    cloth = drawing.colour(picture.colour)
    stick = (60, 45, 35)
    drawing.box(*frame.box(0.48, 0.0, 0.52, 0.88), stick)
    drawing.arc(frame.box(0.5, 0.78, 0.7, 1.0), 0, 180, stick, 0.035)
    x0, y0, x1, y1 = frame.box(0.0, 0.06, 1.0, 1.02)
    drawing.draw.pieslice([value * drawing.side for value in (x0, y0, x1, y1)], 180, 360, fill=cloth)
    ribs = 2 + int(rng.integers(2))
    for rib in range(ribs):
        at = (rib + 1) / (ribs + 1)
        drawing.line(frame((0.5, 0.06), (at, 0.54)), tuple(int(0.6 * value) for value in cloth), 0.015)


def draw_hammer(drawing: Drawing, picture: Picture, rng: np.random.Generator, frame: Frame) -> None:
    head = drawing.colour(picture.colour)
    handle = (150, 100, 55) if rng.random() < 0.6 else (80, 55, 35)
    drawing.polygon(frame((0.44, 0.2), (0.56, 0.2), (0.6, 1.0), (0.4, 1.0)), handle)
    drawing.box(*frame.box(0.25, 0.02, 0.85, 0.26), head)
    drawing.polygon(frame((0.26, 0.04), (0.26, 0.24), (0.0, rng.uniform(0.2, 0.34)), (0.1, 0.08)), head)


OBJECT_DRAWINGS = {
    "car": draw_car,
    "cup": draw_cup,
    "chair": draw_chair,
    "lamp": draw_lamp,
    "boat": draw_boat,
    "bottle": draw_bottle,
    "umbrella": draw_umbrella,
    "hammer": draw_hammer,
}
