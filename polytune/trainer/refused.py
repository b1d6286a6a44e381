"""What to do instead of setting an inherited field that does not act here (``polytune.trainer.inherited``)."""

from __future__ import annotations

_SAMPLING = (
    "probability ratios assume that vines are sampled from the policy's whole distribution, where top_k, top_p, min_p "
    "and repetition_penalty are off"
)
_EVALUATION = "recipes/evaluate.py evaluates"
_OWN_GENERATOR = "polytune samples with its own generator"
_BLANK = "rollouts bring the rows, and nothing is read from a data set while a run trains"

#: a field, or a pattern of them -> what does the work instead, or what it would do; the first one that fits says it
INSTEAD = {
    "max_steps": "max_steps follows from num_updates: set num_updates instead",
    "num_train_epochs": "num_updates sets the length of a run",
    "generation_batch_size": "per_device_train_batch_size * steps_per_generation sets the rows of an update",
    "beta": "set kl_coef and kl_reference instead",
    **dict.fromkeys(("top_k", "top_p", "min_p", "repetition_penalty"), _SAMPLING),
    "use_vllm": "it is TRL's own sampler; generator 'vllm' is polytune's",
    "fp16": "a critic's passes do not scale their gradients; use bf16",
    "save_only_model": "such a run could not be resumed",
    "scale_rewards": "set_normalise and gae_normalise scale advantages",
    **dict.fromkeys(("reward_weights", "multi_objective_aggregation"), "the task's return is the only reward"),
    "generation_kwargs": _OWN_GENERATOR,
    "*transformers_continuous_batching*": _OWN_GENERATOR,
    "use_transformers_paged": _OWN_GENERATOR,
    **dict.fromkeys(("cache_implementation", "use_cache"), "polytune's generator keeps a cache of its own"),
    "vllm_model_impl": "vLLM runs its own implementation",
    "vllm_structured_outputs_regex": "the task's parser says which actions are legal",
    "vllm_importance_sampling_mode": "each token has its own truncated ratio",
    "vllm_importance_sampling_clip_min": "ratios are cut at vllm_importance_sampling_clip_max only",
    "vllm_importance_sampling_cap": "set vllm_importance_sampling_clip_max",
    "mask_truncated_completions": "an episode ends by success or horizon",
    "chat_template_kwargs": "polytune writes the turns of a chat itself; chat and thinking say how",
    "max_tool_calling_iterations": "a task takes actions, no calls of tools",
    **dict.fromkeys(("shuffle_dataset", "data_seed"), "the order of start states follows from seed"),
    "resume_from_checkpoint": "a run continues from the last checkpoint in its own output_dir by itself; to begin with "
    "the weights of another run, set model to its folder",
    **dict.fromkeys(("save_steps", "save_strategy"), "save_updates sets it"),
    **dict.fromkeys(("logging_steps", "logging_strategy", "logging_first_step"), "every update is logged"),
    "num_completions_to_print": "trees.jsonl shows trees as text",
    "log_*": "metrics.jsonl has every update, trees.jsonl shows trees as text",
    "logging_*": "metrics.jsonl has every update, from process 0, and numbers that are not finite end a run",
    "include_num_input_tokens_seen": "metrics.jsonl counts environment steps",
    "label_smoothing_factor": "the loss is of sampled actions, which have no labels",
    "neftune_noise_alpha": "rows must be scored as they were sampled, without noise",
    "cast_lm_head_to_fp32": "rows must be scored as they were sampled, and the generator has no such head",
    "torch_compile*": "rows of every update have other shapes, and polytune packs them itself",
    "*liger_kernel*": "polytune scores rows with its own fused head",
    "optim_args": "learning_rate, weight_decay and adam_* set an optimiser",
    "optim_target_modules": "LoRA (use_peft) trains fewer weights",
    "average_tokens_across_devices": "losses are averaged over all processes in any case",
    "auto_find_batch_size": "an update's rows are those of its trees; lower per_device_train_batch_size",
    "sapo_*": "it belongs to loss_type 'sapo'",
    "vespo_*": "it belongs to loss_type 'vespo'",
    "ref_model_*": "the reference of kl_reference 'pretrained' stays where it is",
    "model_init_kwargs": "model, model_revision and dtype say what is loaded",
    **dict.fromkeys(("fsdp", "fsdp_config"), "accelerate launch --config_file recipes/accelerate/fsdp2.yaml shards"),
    "ddp_static_graph": "rows of every update have other shapes",
    "ds3_gather_for_generation": "ZeRO-3 is not supported; use recipes/accelerate/zero2.yaml or fsdp2.yaml",
    "accelerator_config": "set the fields of the run, and what accelerate launch takes",
    "parallelism_config": "use recipes/accelerate/ddp.yaml or fsdp2.yaml",
    **dict.fromkeys(("push_to_hub", "hub_*"), "recipes/export.py --push USER/REPO uploads a finished run"),
    "*best_model*": f"save_updates keeps checkpoints, and {_EVALUATION} them",
    "greater_is_better": f"save_updates keeps checkpoints, and {_EVALUATION} them",
    **dict.fromkeys(("*eval*", "prediction_loss_only", "include_for_metrics", "do_predict"), _EVALUATION),
    "do_train": "recipes/finetune.py always trains",
    **dict.fromkeys(("ignore_data_skip", "restore_callback_states_from_checkpoint"), "a run continues where it was"),
    "enable_jit_checkpoint": "a run continues from its last checkpoint; save_updates says how often there is one",
    "save_on_each_node": "process 0 writes the run's folder",
    **dict.fromkeys(("dataloader_*", "remove_unused_columns", "label_names", "train_sampling_strategy"), _BLANK),
    **dict.fromkeys(("length_column_name", "pad_to_multiple_of"), _BLANK),
    "debug": "a gradient or a loss that is not finite ends the run in any case",
    "skip_memory_metrics": "a run does not measure memory",
}
#: fields whose value no message shows
SECRET = ("hub_token",)
