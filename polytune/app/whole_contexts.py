"""What the benchmark compares rollouts with, the way of TRL's rollout examples: at every turn the whole text of every
live episode is tokenised, padded and given to ``model.generate(max_new_tokens=1)``."""

import torch


@torch.inference_mode()
def next_tokens(model, tokenizer, texts: list[str], **told):
    """What ``model.generate`` returns for one more token of each text; ``told``: what else it is to tell."""
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    batch.pop("token_type_ids", None)
    return model.generate(**batch, max_new_tokens=1, do_sample=True, top_k=0, temperature=1.0, **told)


class WholeContexts:
    """Turns of episodes that have been played, taken again from their whole text.

    Args:
        episodes: one from each of ``starts``, whose actions the turns before a measured one take again.
    """

    def __init__(self, task, renderer, model, tokenizer, starts: list, episodes: list):
        self.task, self.renderer, self.model, self.tokenizer = task, renderer, model, tokenizer
        self.starts, self.episodes = starts, episodes

    def at(self, turn: int) -> tuple[list, list[str]]:
        """The episodes that are still live at ``turn``, and the text of each so far."""
        pairs = zip(self.starts, self.episodes, strict=True)
        live = [(start, episode) for start, episode in pairs if len(episode.turns) > turn]
        worlds, texts = [self.task.start(start.start_state) for start, _ in live], []
        for world, (_, episode) in zip(worlds, live, strict=True):
            ids = list(self.renderer.prompt_ids(world.observation()))
            for past in episode.turns[:turn]:
                world.step(self.renderer.action_text(past.action_ids))
                ids += [*past.action_ids, *past.feedback_ids]
            texts.append(self.tokenizer.decode(ids))
        return worlds, texts

    @torch.inference_mode()
    def turn(self, worlds: list, texts: list[str]) -> None:
        """One more turn of episodes."""
        output = next_tokens(self.model, self.tokenizer, texts)
        for world, action in zip(worlds, self.tokenizer.batch_decode(output[:, -1:]), strict=True):
            if not world.step(action).done:
                world.observation()
