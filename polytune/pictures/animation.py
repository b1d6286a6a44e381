"""An episode of a grid task as an animated GIF: the rendered map, below it the text of each turn. Loads no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from polytune.tasks.base import Episode, Task
from polytune.tasks.game import mission_line

WIDTH = 480
"""Pixels, about: a whole number of pixels a cell."""
MARGIN, FONT_SIZE = 10, 15
PAPER, INK, QUIET = (255, 255, 255), (17, 24, 39), (107, 114, 128)


def save_gif(task: Task, seed: int, actions: Sequence[str], path: str | Path, *, seconds: float = 0.4) -> int:
    """Replay `actions` from the start state of `seed` and write turns + 1 frames, `seconds` each, the last one longer.

    Returns:
        the number of frames.
    """
    frames = episode_frames(task, seed, actions)
    milliseconds = [round(1000 * seconds)] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return len(frames)


def episode_frames(task: Task, seed: int, actions: Sequence[str]) -> list[Image.Image]:
    """The images, all of one size: the map with what the agent sees made lighter, and the caption."""
    episode = task.start(seed)
    maps, captions = [_map_image(episode)], [_caption(episode, None, 0.0)]
    for action in actions:
        reward = episode.step(action).reward
        maps.append(_map_image(episode))
        captions.append(_caption(episode, action, reward))
    font = ImageFont.load_default(FONT_SIZE)
    width, height = maps[0].size
    wrapped = [_wrapped(caption, font, width - 2 * MARGIN) for caption in captions]
    line_height = round(1.35 * FONT_SIZE)
    total = height + 2 * MARGIN + line_height * max(map(len, wrapped))
    return [_framed(image, lines, font, line_height, total) for image, lines in zip(maps, wrapped, strict=True)]


def _map_image(episode: Episode) -> Image.Image:
    env = episode.env
    return Image.fromarray(env.get_frame(highlight=True, tile_size=max(8, WIDTH // env.grid.width)))


def _caption(episode: Episode, action: str | None, reward: float) -> list[str]:
    """Paragraphs; the first is a heading."""
    task = episode.task
    told = f"{task.name}, seed {episode.seed}, turn {episode.turn} of {task.horizon}"
    if action is not None:
        said = action.strip() or repr(action)
        told += f": {said}" if task.parse_action(action) is not None else f": {said[:30]!r}, no action"
    if episode.done:
        told += f"; {episode.stop_reason}, reward {reward:.3g}"
    parts = [told, *mission_line(episode)]
    return parts if episode.done else [*parts, f"sees: {episode.observation()}"]


def _wrapped(paragraphs: list[str], font, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines with their colours."""
    columns = max(10, int(width / font.getlength("abcdefghij=12345") * 16))
    options = {"break_long_words": False, "break_on_hyphens": False}
    return [
        (line, INK if number == 0 else QUIET)
        for number, text in enumerate(paragraphs)
        for line in textwrap.wrap(text, columns, **options)
    ]


def _framed(image: Image.Image, lines, font, line_height: int, total_height: int) -> Image.Image:
    frame = Image.new("RGB", (image.width, total_height), PAPER)
    frame.paste(image, (0, 0))
    pen = ImageDraw.Draw(frame)
    for number, (line, colour) in enumerate(lines):
        pen.text((MARGIN, image.height + MARGIN + number * line_height), line, fill=colour, font=font)
    return frame
