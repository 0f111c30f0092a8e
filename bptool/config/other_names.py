"""Names that other tools have for settings, and what bptool calls them.

Of nanoGPT, llm.c, Hugging Face's models, Trainer and TRL, litgpt, llama.cpp and PyTorch. One table
serves ``--set`` and files: a key that no section knows is looked for here by its last part, without
regard to case and to ``-`` or ``_``.
"""

from __future__ import annotations

_SETTINGS = {
    "training.steps": "max_iters max_steps num_iterations iters iterations total_steps n_steps "
    "num_steps train_steps train_iters adam_iter max_train_steps steps",
    "training.batch_size": "batch_size per_device_train_batch_size train_batch_size "
    "global_batch_size device_batch_size n_batch bs",
    "training.micro_batch_size": "gradient_accumulation_steps grad_accum_steps grad_acc "
    "accumulate_grad_batches gradient_accumulation micro_batch_size microbatch_size n_ubatch",
    "training.seed": "seed random_seed manual_seed seed_offset",
    "training.workers": "num_threads n_threads threads num_workers dataloader_num_workers nproc",
    "training.clip_norm": "grad_clip max_grad_norm gradient_clip_val clip_grad clip grad_norm_clip",
    "training.label_smoothing": "label_smoothing_factor",
    "training.eval_interval": "eval_interval eval_steps val_loss_every eval_freq eval_every "
    "val_check_interval",
    "training.log_interval": "log_interval logging_steps log_every log_freq",
    "training.checkpoint_interval": "save_interval save_steps save_every checkpoint_every "
    "save_freq",
    "training.keep_last": "save_total_limit keep_checkpoints",
    "training.eval_tokens": "eval_iters eval_batches val_max_steps max_eval_samples",
    "training.early_stopping.patience": "early_stopping_patience early_stop patience",
    "model.context": "block_size n_ctx context_length context_size ctx_size ctx seq_len seq_length "
    "sequence_length max_seq_len max_seq_length max_length max_position_embeddings n_positions "
    "sequence_len cutoff_len",
    "model.n_layer": "n_layers num_layers num_hidden_layers layers depth n_block n_blocks",
    "model.n_head": "n_heads num_heads num_attention_heads heads head_count",
    "model.n_embd": "d_model dim hidden_size embed_dim embedding_dim n_embed width model_dim "
    "channels",
    "model.dropout": "attn_pdrop resid_pdrop embd_pdrop attention_dropout hidden_dropout "
    "hidden_dropout_prob drop_rate dropout_rate",
    "model.activation": "activation_function hidden_act act_fn",
    "model.init_std": "initializer_range init_scale",
    "model.tie_embeddings": "tie_word_embeddings weight_tying tie_weights",
    "model.bias": "attention_bias mlp_bias use_bias",
    "optimizer.name": "optim optim_type optimizer_type",
    "optimizer.learning_rate": "lr learning_rate max_lr peak_lr base_lr adam_alpha",
    "optimizer.weight_decay": "wd weight_decay adam_decay",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_epsilon adam_eps epsilon",
    "schedule.name": "lr_scheduler_type lr_schedule scheduler decay_lr lr_scheduler",
    "schedule.warmup_steps": "warmup warmup_iters lr_warmup_steps num_warmup_steps warmup_ratio "
    "lr_warmup_iters",
    "schedule.final_fraction": "min_lr lr_min min_lr_ratio learning_rate_decay_frac final_lr_frac",
    "data.text": "dataset dataset_name data_path train_file input_file data_dir train_data corpus "
    "data_file input_path data_root file",
    "data.records.validation": "validation_file eval_data val_data val_file eval_file",
    "data.split.validation_fraction": "val_split val_fraction validation_split val_size "
    "validation_split_percentage val_set_size test_size",
    "data.tokenizer.vocab_size": "n_vocab vocab_size",
    "start.run": "init_from resume_from checkpoint_dir model_name_or_path pretrained_model",
    "lora.rank": "lora_r lora_rank r",
    "lora.alpha": "lora_alpha",
    "lora.targets": "target_modules lora_target_modules",
    "objective.beta": "dpo_beta",
    "rollouts.kl_weight": "kl_coef init_kl_coef kl_coeff",
    "rollouts.answers": "num_generations num_return_sequences group_size",
    "rollouts.max_tokens": "max_completion_length response_length",
    "sample.max_tokens": "max_new_tokens n_predict num_tokens",
}
_REASONS = {
    "device backend use_cuda no_cuda use_cpu cuda n_gpu gpus n_gpu_layers accelerator": "bptool "
    "trains on the CPU",
    "dtype precision fp16 bf16 amp mixed_precision torch_dtype tf32": "bptool trains in float32",
    "compile torch_compile jit flash use_flash_attention flash_attention "
    "attn_implementation": "kernels are always compiled",
    "report_to wandb wandb_log wandb_project wandb_run_name use_wandb logging_dir tensorboard": "a "
    "run keeps its numbers in metrics.jsonl and draws loss.png",
    "epochs num_train_epochs num_epochs n_epochs max_epochs epoch": "set training.steps; "
    "bptool finetune has --epochs",
    "lr_decay_iters lr_decay_steps decay_steps": "a schedule ends with training.steps",
    "out_dir output_dir save_dir checkpoint_out": "`bptool train --out FOLDER` names the folder of "
    "a run",
    "eval_only": "bptool eval measures a run",
    "ddp world_size deepspeed fsdp local_rank find_unused_parameters num_nodes devices": "bptool "
    "trains on one machine",
    "gradient_checkpointing activation_checkpointing": "set training.micro_batch_size to need less "
    "memory",
    "load_in_4bit load_in_8bit quantization": "bptool trains in float32",
    "n_kv_head num_key_value_heads n_kv_heads": "each head has keys and values of its own",
    "intermediate_size n_inner ffn_dim d_ff": "the inner width of gpt2 is four times model.n_embd",
}
_UNITS = {
    "eval_iters eval_batches val_max_steps": "in tokens, not in batches",
    "max_eval_samples": "in tokens, not in records",
    "warmup_ratio": "in steps, not as a share of them",
    "min_lr lr_min final_lr_frac": "as a share of the learning rate",
    "decay_lr": "of which constant decays nothing",
}
SETTINGS = {name: key for key, names in _SETTINGS.items() for name in names.split()}
"""What bptool calls a setting, by the name that another tool has for it."""
UNITS = {name: unit for names, unit in _UNITS.items() for name in names.split()}
"""In what its values differ from those of the setting here, by the name that another tool has."""
REASONS = {name: reason for names, reason in _REASONS.items() for name in names.split()}
"""Why there is no such setting, by the name that another tool has for it."""


def translated(key: str) -> str | None:
    """A sentence on what another tool's ``key`` is here, or None where no tool's is known."""
    name = key.lower().replace("-", "_")
    if name in SETTINGS:
        unit = f", {UNITS[name]}" if name in UNITS else ""
        return f"bptool calls it {SETTINGS[name]}{unit}"
    if name in REASONS:
        return f"bptool has no such setting: {REASONS[name]}"
    return None
