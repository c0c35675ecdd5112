"""A table of wrong command lines, and what is said about each: numbers, options of tasks, whole commands, and recipes."""

#: Values of numbers, with the start of what is expected. All are options of every task.
NUMBERS = [
    ("learning_rate", "nan -1 0 inf", "more than 0"),
    ("num_train_epochs", "0 -1 nan inf", "more than 0"),
    ("max_steps", "0 -5", "at least 1"),
    ("warmup_steps", "-1 nan", "at least 0"),
    ("weight_decay", "-1 nan", "at least 0"),
    ("adam_beta1", "1 -0.1 nan", "from 0 to below 1"),
    ("adam_beta2", "1.5", "from 0 to below 1"),
    ("adam_epsilon", "-1 nan", "at least 0"),
    ("max_grad_norm", "-1 nan", "at least 0"),
    ("label_smoothing_factor", "2 -1", "from 0 to below 1"),
    ("neftune_noise_alpha", "nan 0", "more than 0"),
    ("gradient_accumulation_steps", "0 -2 99999999999999999999", "from 1 to 16777216"),
    ("per_device_train_batch_size", "0 -1 99999999999999999999", "from 1 to 16777216"),
    ("per_device_eval_batch_size", "0", "from 1 to 16777216"),
    ("total_batch_size", "0 -8", "at least 1"),
    ("torch_empty_cache_steps", "0 -1", "at least 1"),
    ("logging_steps", "0 -1 nan", "more than 0"),
    ("save_steps", "0 -1 inf", "more than 0"),
    ("eval_steps", "0 nan", "more than 0"),
    ("eval_delay", "-1 nan", "at least 0"),
    ("eval_accumulation_steps", "0 -1", "at least 1"),
    ("save_total_limit", "0 -1", "at least 1"),
    ("seed", "-1 4294967296 99999999999999999999999", "from 0 to 4294967295"),
    ("data_seed", "-1 99999999999999999999999", "from 0 to 4294967295"),
    ("dataloader_num_workers", "-1 99999999", "from 0 to 1024"),
    ("dataloader_prefetch_factor", "0", "from 1 to 65536"),
    ("ddp_bucket_cap_mb", "0", "at least 1"),
    ("ddp_timeout", "-1 99999999999999", "from 1 to 2147483647"),
    ("head_lr_multiplier", "nan inf 0", "more than 0"),
    ("cross_modal_lr_multiplier", "-1", "more than 0"),
    ("layer_decay", "nan 0 1.1", "more than 0 and at most 1"),
    ("end_learning_rate", "nan -1", "at least 0"),
    ("polynomial_power", "nan inf 0", "more than 0"),
    ("max_train_samples", "0 -3", "at least 1"),
    ("max_eval_samples", "0 -1", "at least 1"),
    ("max_bad_fraction", "2 nan -1", "from 0 to below 1"),
    ("held_out", "nan inf", "a finite number"),
    ("image_size", "0 -1 99999999", "from 1 to 16384"),
    ("max_length", "2 -1", "at least 3"),
    ("max_image_pixels", "0 -5", "at least 1"),
    ("cross_modal_hidden_size", "0 -8 99999999999", "from 1 to 65536"),
    ("cross_modal_layers", "-1 99999999", "from 0 to 1024"),
    ("cross_modal_heads", "0 -2", "from 1 to 65536"),
    ("cross_modal_mlp_ratio", "0 nan 1e9", "more than 0 and at most 1024"),
    ("cross_modal_dropout", "1 nan", "from 0 to below 1"),
    ("cross_modal_attention_dropout", "-0.1", "from 0 to below 1"),
    ("classifier_dropout", "1.5", "from 0 to below 1"),
    ("classifier_hidden_size", "0", "from 1 to 65536"),
    ("layer_norm_eps", "0 nan", "more than 0"),
    ("initializer_range", "-1 inf", "more than 0"),
]

#: What follows `renaissance TASK` and the options of a new model, and what the line says. @ is a folder, without data.
OPTIONS = """
nlvr2 --output_dir "" | output_dir: expected a value, got an empty one
nlvr2 --output_dir " " | output_dir: expected a folder, got an empty name
nlvr2 --architecture "" | architecture: expected a value, got an empty one
nlvr2 --cache_frozen_features= | cache_frozen_features: expected a value, got an empty one
nlvr2 --deepspeed "" | deepspeed: expected a value, got an empty one
nlvr2 --run_name "" | run_name: expected a value, got an empty one
nlvr2 --freeze vision "" | freeze: expected a value, got an empty one
nlvr2 --accelerator_config '{"dispatch_batches": "true"}' | accelerator_config: dispatch_batches: expected true or false, got "true"
nlvr2 --output_dir @/file | output_dir @/file: cannot be made a folder (it is a file)
nlvr2 --output_dir @/file/run | output_dir @/file/run: cannot be made a folder (Not a directory)
nlvr2 --optim nosuch | argument --optim: invalid choice: 'nosuch'
nlvr2 --optim adamw_bnb_8bit | optim adamw_bnb_8bit:
nlvr2 --optim galore_adamw | optim galore_adamw:
nlvr2 --optim lomo | optim lomo:
nlvr2 --optim schedule_free_adamw | optim schedule_free_adamw:
nlvr2 --optim adamw_torch_8bit | optim adamw_torch_8bit:
nlvr2 --optim sgd --adam_coupled_decay | adam_coupled_decay: without effect on optim sgd; choose adamw_torch or adamw_torch_fused
nlvr2 --optim adafactor --adam_coupled_decay | adam_coupled_decay: without effect on optim adafactor
nlvr2 --optim_args foo=1 | optim_args: foo=1 is without effect on optim adamw_torch_fused
nlvr2 --optim_args foo | optim_args: expected name=value, several after a comma, got foo
nlvr2 --optim sgd --optim_args momentum=-1 | optim sgd: Invalid momentum value
nlvr2 --optim sgd --optim_args momentum=0.9,foo=2 | optim_args: foo=2 is without effect on optim sgd
nlvr2 --optim sgd --optim_args momentum=x | optim sgd: could not convert string to float: 'x'
nlvr2 --optim_target_modules x | optim_target_modules: without effect without a GaLore or APOLLO optim
nlvr2 --report_to wandb | report_to wandb: WandbCallback requires wandb
nlvr2 --report_to nosuch | report_to: expected none, all, or some of
nlvr2 --report_to none tensorboard | report_to: none and all stand alone
nlvr2 --trackio_space_id x | trackio_space_id: without effect without report_to trackio
nlvr2 --deepspeed @/empty.yaml | deepspeed @/empty.yaml: expected a JSON file, and this is not JSON
nlvr2 --deepspeed @/file | deepspeed @/file: expected a JSON file, and this is not JSON
nlvr2 --deepspeed @/list.json | deepspeed @/list.json: expected a JSON file with one object
nlvr2 --deepspeed '{broken' | deepspeed: not JSON
nlvr2 --deepspeed nosuch.json | deepspeed nosuch.json: no such file
nlvr2 --use_liger_kernel true | use_liger_kernel: it has no kernels for these models
nlvr2 --push_to_hub true | push_to_hub: no access token
nlvr2 --push_to_hub true --token hf_x | push_to_hub: HF_HUB_OFFLINE is set
nlvr2 --push_revisions abc | push_revisions: expected a number of steps
nlvr2 --push_revisions 100 | push_revisions: without effect without push_to_hub
nlvr2 --token "" | token: expected an access token
nlvr2 --token "a b" | token: expected an access token
nlvr2 --accelerator_config '{"bogus": 1}' | accelerator_config: no setting bogus
nlvr2 --accelerator_config '{"split_batch": true}' | accelerator_config: no setting split_batch; did you mean split_batches?
nlvr2 --accelerator_config '{bogus' | accelerator_config: not JSON
nlvr2 --accelerator_config '[1]' | accelerator_config: expected a JSON object
nlvr2 --accelerator_config nosuch.json | accelerator_config: expected a JSON object or a file with one
nlvr2 --fsdp_config nosuch.json | fsdp_config: expected a JSON object or a file with one
nlvr2 --lr_scheduler_kwargs '{foo' | lr_scheduler_kwargs: not JSON
nlvr2 --lr_scheduler_kwargs '{"foo": 1}' | lr_scheduler_kwargs: {'foo': 1} does not fit lr_scheduler_type linear
nlvr2 --lr_scheduler_type cosine_with_min_lr | lr_scheduler_kwargs: nothing does not fit lr_scheduler_type cosine_with_min_lr
nlvr2 --lr_scheduler_type cosine --lr_scheduler_kwargs '{"num_cycles": NaN}' | lr_scheduler_kwargs: cannot be read (expected a finite number
nlvr2 --lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs '{"min_lr": -1}' | lr_scheduler_kwargs: {'min_lr': -1} does not fit lr_scheduler_type cosine_with_min_lr (min_lr: expected at least 0
nlvr2 --lr_scheduler_type inverse_sqrt --lr_scheduler_kwargs '{"timescale": 0}' | lr_scheduler_kwargs: {'timescale': 0} does not fit
nlvr2 --lr_scheduler_type nosuch | argument --lr_scheduler_type/--lr-scheduler-type: invalid choice: 'nosuch'
nlvr2 --lr_scheduler_type reduce_lr_on_plateau | lr_scheduler_type reduce_lr_on_plateau: needs evaluations
nlvr2 --lr_scheduler_type constant --warmup_steps 5 | warmup_steps: without effect on lr_scheduler_type constant
nlvr2 --warmup_steps 1000 --max_steps 10 | warmup_steps: training has 10 steps
nlvr2 --max_flops 2e13 --max_steps 10 | max_flops: max_steps 10 says how long training takes too; leave out one of them
nlvr2 --max_flops 2e13 --num_train_epochs 5 | max_flops: num_train_epochs 5 says how long training takes too
nlvr2 --max_flops 2e13 --auto_find_batch_size | max_flops: auto_find_batch_size changes the rows a step
nlvr2 --max_flops 2e13 --accelerator_config '{"split_batches": true}' | accelerator_config: split_batches changes the rows a step; leave out max_flops
nlvr2 --max_flops 0 | max_flops: expected more than 0, got 0
nlvr2 --warmup_steps 1.5 | warmup_steps: expected a whole number of steps, or a share below 1
nlvr2 --save_steps 1.5 | save_steps: expected a whole number of steps
nlvr2 --warmup_ratio 0.1 | no option --warmup_ratio; did you mean --warmup_steps?
nlvr2 --gradient_checkpointing true --gradient_checkpointing_kwargs '{foo' | gradient_checkpointing_kwargs: not JSON
nlvr2 --gradient_checkpointing true --gradient_checkpointing_kwargs '{"foo": 1}' | gradient_checkpointing_kwargs: no setting foo
nlvr2 --gradient_checkpointing_kwargs '{"debug": true}' | gradient_checkpointing_kwargs: without effect without gradient_checkpointing
nlvr2 --dataloader_persistent_workers true | dataloader_persistent_workers: without effect without dataloader_num_workers
nlvr2 --dataloader_prefetch_factor 2 | dataloader_prefetch_factor: without effect without dataloader_num_workers
nlvr2 --dataloader_multiprocessing_context spawn | dataloader_multiprocessing_context: without effect
nlvr2 --dataloader_multiprocessing_context thread | --dataloader-multiprocessing-context: invalid choice: 'thread'
nlvr2 --torch_compile_mode nosuch | torch_compile_mode: expected one of default
nlvr2 --torch_compile_backend nosuch | torch_compile_backend: expected one of
nlvr2 --bf16 --fp16 | bf16, fp16: a run has one precision
nlvr2 --tf32 | tf32
nlvr2 --bf16 --bf16_weights | bf16, bf16_weights: a run has one precision
nlvr2 --bf16_weights --fp16 | bf16_weights, fp16: a run has one precision
nlvr2 --bf16_weights --optim lomo | bf16_weights: optim lomo does not train float32 copies; give --bf16 instead
nlvr2 --bf16_weights --deepspeed zero2 | bf16_weights: DeepSpeed keeps its own float32 copies; give --bf16 instead
nlvr2 --fp16 | fp16: needs a GPU
nlvr2 --load_best_model_at_end true | load_best_model_at_end: needs evaluations to compare
nlvr2 --load_best_model_at_end true --eval_strategy epoch | load_best_model_at_end: each checkpoint needs its evaluation
nlvr2 --load_best_model_at_end true --eval_strategy steps --eval_steps 3 --save_steps 4 | --load_best_model_at_end requires
nlvr2 --save_strategy best | save_strategy best: needs evaluations
nlvr2 --eval_strategy nosuch | argument --eval_strategy/--eval-strategy: invalid choice: 'nosuch'
nlvr2 --save_strategy nosuch | argument --save_strategy/--save-strategy: invalid choice: 'nosuch'
nlvr2 --metric_for_best_model acuracy --save_strategy best --eval_strategy steps | metric_for_best_model: no metric acuracy; did you mean accuracy?
nlvr2 --metric_for_best_model eval_f1 --save_strategy best --eval_strategy steps | metric_for_best_model: no metric eval_f1;
nlvr2 --resume_from_checkpoint nowhere_at_all | resume_from_checkpoint nowhere_at_all: no whole checkpoint there
nlvr2 --resume_from_checkpoint @/file | resume_from_checkpoint @/file: no whole checkpoint there
nlvr2 --resume_from_checkpoint true | resume_from_checkpoint true: there is no checkpoint in
nlvr2 --resume_from_checkpoint "" | resume_from_checkpoint: expected a value, got an empty one
nlvr2 --resume_from_checkpoint " " | resume_from_checkpoint: expected true, false or a folder
nlvr2 --use_cache true | use_cache: without effect
nlvr2 --local_rank 3 | local_rank: without effect, launchers set the variable LOCAL_RANK
nlvr2 --local_rank 0 | local_rank: without effect
nlvr2 --fp16_full_eval true | fp16_full_eval: needs a GPU, and this run is on a CPU
nlvr2 --fp16_full_eval true --do_eval | fp16_full_eval: needs a GPU
nlvr2 --tf32 true | tf32 requires Ampere
nlvr2 --fsdp full_shard | fsdp: without effect without several processes
nlvr2 --fsdp_config '{"reshard_after_forward": true}' | fsdp_config: without effect without fsdp
nlvr2 --ddp_backend gloo | ddp_backend: without effect without several processes
nlvr2 --ddp_backend nosuch | argument --ddp_backend/--ddp-backend: invalid choice: 'nosuch'
nlvr2 --debug underflow_overflow | debug: it fails on masks
nlvr2 --debug tpu_metrics_debug | debug: it fails on masks
nlvr2 --debug nosuch | argument --debug: invalid DebugOption value: 'nosuch'
nlvr2 --include_num_input_tokens_seen true | include_num_input_tokens_seen: it would count the numbers of one input
nlvr2 --restore_callback_states_from_checkpoint true | restore_callback_states_from_checkpoint: without effect
nlvr2 --liger_kernel_config '{"rope": true}' | liger_kernel_config
nlvr2 --parallelism_config '{"tp_size": 2}' | parallelism_config
nlvr2 --dataloader_in_order false | dataloader_in_order: without effect without dataloader_num_workers
nlvr2 --length_column_name x | length_column_name: without effect
nlvr2 --log_level bogus | argument --log_level/--log-level: invalid choice: 'bogus'
nlvr2 --text_overrides '{"bogus": 1}' | text_overrides: text encoder overrides: a bert configuration has no field bogus
nlvr2 --text_overrides '{"hidden_size": 0}' | text_overrides: text encoder: hidden_size: expected at least 1, got 0
nlvr2 --text_overrides '{"hidden_size": 33}' | text_overrides: text encoder: hidden_size (33) is not a multiple
nlvr2 --text_overrides '{"hidden_size": "big"}' | text_overrides:
nlvr2 --text_overrides '{"hidden_size": 32, "hidden_size": 64}' | text_overrides: cannot be read (hidden_size is there twice
nlvr2 --text_overrides '{"mlp_ratio": NaN}' | text_overrides: cannot be read (expected a finite number, got NaN)
nlvr2 --text_overrides '{"mlp_ratio": 1e999}' | text_overrides:
nlvr2 --text_overrides '{"hidden_act": "nosuch"}' | text_overrides
nlvr2 --text_overrides '{"dropout": 2}' | text_overrides
nlvr2 --text_overrides '{hidden' | text_overrides: not JSON
nlvr2 --vision_overrides 7 | vision_overrides: expected a JSON object
nlvr2 --vision_overrides '{"image_size": 33, "patch_size": 16}' | vision_overrides: vision encoder overrides: image_size 33 is not a multiple
nlvr2 --image_size 8 | image_size: vit cannot be a vision tower on images of 8x8 pixels
nlvr2 --cross_modal_heads 5 | cross_modal_hidden_size (32) is not a multiple of cross_modal_heads (5)
nlvr2 --cross_modal_act nosuch | cross_modal_act: expected one of
nlvr2 --pooler triple | pooler: expected "single" or "double"
nlvr2 --attn_implementation nosuch | attn_implementation: expected sdpa or eager
nlvr2 --freeze nosuch | freeze: expected text, vision, cross_modal
nlvr2 --freeze text:2x | freeze: expected text, vision, cross_modal
nlvr2 --freeze text:-99 | freeze: text:-99 leaves nothing to freeze
nlvr2 --architecture no-tower | architecture: expected dual-encoder, one-tower, two-tower
nlvr2 --encoder bert | encoder: without effect on a two-tower model
nlvr2 --patch_size 4 | patch_size: without effect on a two-tower model
nlvr2 --objectives mlm | objectives: without effect on a model ForImagesAndTextClassification
nlvr2 --mlm_probability 0.1 | no option --mlm_probability
nlvr2 --model_revision v1 | model_revision: without effect without model_name_or_path
nlvr2 --tokenizer nosuch/tokenizer | tokenizer
nlvr2 --tokenizer @/file | tokenizer
nlvr2 --text_encoder nosuchmodel | text_encoder: text encoder 'nosuchmodel' not found
nlvr2 --model_name_or_path @/nosuch | without effect on a checkpoint (model_name_or_path is given)
nlvr2 --augmentation nosuch | augmentation: expected none, or some of
nlvr2 --randaugment_magnitude 5 | randaugment_magnitude: without effect if augmentation is none
nlvr2 --augmentation randaugment --randaugment_magnitude nan | randaugment_magnitude: expected more than 0 and at most 10, got nan
nlvr2 --augmentation random_resized_crop --random_resized_crop_scale nan 1 | random_resized_crop_scale: expected
nlvr2 --cache_frozen_features @/cache | cache_frozen_features: a vision tower that trains
nlvr2 --yes | yes: without effect without cache_frozen_features
nlvr2 --held_out 1.5 | held_out: expected a share below 1, or a whole number
nlvr2 --download_timeout 3 | download_timeout: without effect without download_images
nlvr2 --download_images --download_timeout -1 | download_timeout: expected more than 0
nlvr2 --download_images --download_threads 0 | download_threads: expected from 1 to 1024
nlvr2 --train_file x.csv | train_file: without effect if dataset is given
nlvr2 --images_column a b c | images_column: expected one column
nlvr2 --train_sampling_strategy batch_rebalance | train_sampling_strategy: expected random, sequential
nlvr2 --import_module nosuch.module | import_module nosuch.module: cannot be imported
nlvr2 --dataset_confg x | no option --dataset_confg; did you mean --dataset_config?
pretrain --objectives nosuch | objectives: unknown nosuch
pretrain --objectives {} | objectives: expected a weight above 0 for at least one objective
pretrain --objectives '{"mlm": 0}' | objectives: expected a weight above 0
pretrain --objectives '{"mlm": -1}' | objectives: expected a weight of at least 0
pretrain --objectives '{"mlm": NaN}' | objectives: cannot be read (expected a finite number, got NaN)
pretrain --objectives '{"mlm": 1e999}' | objectives: cannot be read (expected a finite number, got 1e999)
pretrain --objectives '{"mlm": 1, "mlm": 2}' | objectives: cannot be read (mlm is there twice
pretrain --objectives '{"mlm": "a"}' | objectives: expected a weight of at least 0
pretrain --objectives '{mlm' | objectives: not JSON
pretrain --objectives mlm mlm | objectives: expected each once, got mlm mlm
pretrain --mlm_probability 0 | mlm_probability: expected more than 0 and less than 1
pretrain --mlm_probability nan | mlm_probability: expected more than 0 and less than 1
pretrain --objectives itm --mlm_probability 0.2 | mlm_probability: without effect on the objectives itm
pretrain --image_transform foo | image_transform: expected one of pixelbert, vit, imagenet, clip, got foo
pretrain --itm_false_images 0 | itm_false_images, itm_false_texts: without false pairs there is nothing to tell apart
pretrain --itm_false_images -1 | itm_false_images: expected from 0 to 64, got -1
pretrain --itm_false_texts 1 --itm_negatives random | itm_negatives: random is of false images
pretrain --itm_false_texts 9 --per_device_train_batch_size 8 | per_device_train_batch_size: 9 false images or texts of a row
pretrain --objectives mlm --itm_false_images 2 | itm_false_images: without effect on the objectives mlm
pretrain --itm_text foo | itm_text: expected one of clean, masked
pretrain --objectives itm --itm_text masked | itm_text: masked needs the objective mlm too; expected clean
pretrain --objectives itm contrastive --itm_text masked | itm_text: masked needs the objective mlm too
pretrain --tokenizer @/no_mask | has no mask token, which masked language modelling needs
pretrain --train_sampling_strategy sequential --captions_per_image 2 | train_sampling_strategy: sequential leaves rows where they are
pretrain --streaming --max_steps 5 --train_sampling_strategy group_by_length | train_sampling_strategy: group_by_length is without effect on a stream
pretrain --objectives contrastive --contrastive_size 0 | contrastive_size: expected from 1 to 65536
pretrain --contrastive_size 5 | contrastive_size: without effect on a model ForPreTraining
pretrain --captions_per_image 0 | captions_per_image: expected at least 1
pretrain --train_weights nan | train_weights: expected a finite number
pretrain --streaming | max_steps: needed with streaming
pretrain --streaming --max_flops 2e13 | max_steps: needed with streaming
pretrain --streaming --max_steps 5 --itm_negatives random | streaming: random rows
pretrain --shuffle_buffer_size 10 | shuffle_buffer_size: without effect without streaming
pretrain --per_device_train_batch_size 1 | per_device_train_batch_size: in image-text matching
pretrain --label_smoothing_factor 0.1 | label_smoothing_factor: without effect
pretrain --accelerator_config '{"split_batches": true}' | accelerator_config: split_batches cuts batches in pieces
pretrain --metric_for_best_model accuracy --save_strategy best --eval_strategy steps | metric_for_best_model: no metric accuracy;
snli-ve --use_premise maybe | argument --use_premise/--use-premise: expected true or false
snli-ve --metric_for_best_model recall --save_strategy best --eval_strategy steps | metric_for_best_model: no metric recall;
image-text --class_weights '{"a": -1}' | class_weights
image-text --class_weights '{a' | class_weights
image-text --label_separator ";" | label_separator
image-text --multi_label --label_smoothing_factor 0.1 | label_smoothing_factor: without effect with multi_label
vqa --min_answer_count 0 | min_answer_count: expected at least 1
vqa --train_splits test | train_splits: expected train, or train and validation
vqa --train_splits train validation --held_out 0.1 | held_out: makes the validation rows
vqa --answer_splits test | answer_splits: expected train, validation or both
vqa --answer_score nosuch | invalid choice: 'nosuch'
vqa --label_smoothing_factor 0.1 | label_smoothing_factor: without effect on answers
refcoco --label_smoothing_factor 0.1 | label_smoothing_factor: would give a share to boxes that a row does not have
refcoco --augmentation randaugment | augmentation: this task has no images that could be augmented
refcoco --cache_frozen_features @/cache | cache_frozen_features: this task looks at regions
retrieval --label_smoothing_factor 0.1 | label_smoothing_factor: does not fit pairs that are ranked
retrieval --negatives nosuch | invalid choice: 'nosuch'
retrieval --num_negative_texts -1 | num_negative_texts: expected at least 0
retrieval --num_negative_texts 0 | num_negative_texts, num_negative_images: expected at least one false pair
retrieval --rerank_top_k 5 | rerank_top_k: expected at least 10
retrieval --eval_fold_size 1 | eval_fold_size: expected at least 2
retrieval --negatives hard --per_device_train_batch_size 1 | per_device_train_batch_size: negatives hard come from
retrieval --lr_scheduler_type reduce_lr_on_plateau --eval_strategy steps | metric_for_best_model: no metric loss;
glue --task_name stsb --label_smoothing_factor 0.1 | label_smoothing_factor: without effect on scores
glue --task_name nosuch | task_name: expected one of cola
glue --task_name cola --text_pair_column x | text_pair_column: without effect on cola
glue --augmentation randaugment | augmentation: this task has no images
glue --task_name mrpc --metric_for_best_model matthews --save_strategy best --eval_strategy steps | metric_for_best_model: no metric matthews;
cifar10 --train_sampling_strategy group_by_length | train_sampling_strategy: group_by_length is without effect, this task has no text
cifar10 --neftune_noise_alpha 5 | neftune_noise_alpha: without effect, this task has no text
cifar10 --text_column x | no option --text_column
cifar10 --max_length 1 | max_length: expected at least 3
"""

#: Whole command lines.
COMMANDS = """
nosuch | no command nosuch
recipes a b | unexpected 'a b'
recipes nosuch | recipe nosuch: no such file
recipes @ | recipe @: a folder, expected a YAML file
nlvr2 @ | recipe @: a folder, expected a YAML file
nlvr2 @/file | recipe @/file: expected a line `option: value` for each option
nlvr2 @/empty.yaml | recipe @/empty.yaml: expected a line `option: value` for each option, got an empty file
nlvr2 @/binary.yaml | recipe @/binary.yaml: expected a text file of YAML in UTF-8
nlvr2 @/list.json | recipe @/list.json: expected a line `option: value` for each option
nlvr2 nosuch.yaml | recipe nosuch.yaml: no such file
nlvr2 x.txt --do_train | recipe x.txt: no such file
nlvr2 --do_train x | expected true or false, got 'x'
nlvr2 --text_encoder bert --vision_encoder vit --dataset nowhere | nothing to do: pass --do_train
nlvr2 --text_encoder bert --vision_encoder vit --do_train --output_dir @/r | dataset: expected a prepared folder
nlvr2 --text_encoder bert --dataset nowhere --do_train | a new two-tower model needs vision_encoder
nlvr2 --model_name_or_path @/nosuch --do_train --dataset nowhere --output_dir @/r | model_name_or_path '@/nosuch'
pretrain pretrain_shapes_two_tower --max_steps ten | argument --max_steps/--max-steps: invalid int value: 'ten'
pretrain pretrain_shapes_two_tower --learning_rate 0 | learning_rate: expected more than 0
predict | CHECKPOINT
predict @/nosuch --text "" | --text: expected a text, got a blank one
predict @/nosuch --text x --top_k 0 | --top_k: expected at least 1, got 0
predict @/nosuch --text x --top_k x | argument --top_k: invalid int value: 'x'
predict @/nosuch --image nosuch.jpg | --image nosuch.jpg: no such file
predict @/nosuch --file nosuch.csv | --file: no such file or folder: 'nosuch.csv'
predict @/nosuch --boxes 1,2,3 | --boxes: expected left,top,width,height
predict @/nosuch --boxes nan,1,1,1 | --boxes: expected left,top,width,height
predict @/nosuch --text x --output @ | --output: @ is a folder, expected a file
predict @/nosuch --text x --output @/none/x.json | --output: @/none/x.json: no such folder
predict @/nosuch --text x --output "" | --output: expected a file, got an empty name
predict @/nosuch --text x --image_column y | --image_column: without effect without --file
predict @/nosuch --txt x | no option --txt; did you mean --text?
predict @/nosuch --text x | checkpoint '@/nosuch'
predict @/nosuch --text x --token "" | token: expected an access token
prepare nosuch | no dataset nosuch
prepare shapes | --output is needed
prepare shapes --output "" | --output: expected a folder, got an empty name
prepare shapes --output @/file | --output: @/file is a file, expected a folder
prepare shapes --output @/file/x | --output: @/file is a file, expected a folder
prepare shapes --output @/s --num_train -5 | --num_train: expected from 1 to 1000000000, got -5
prepare shapes --output @/s --num_validation 0 | --num_validation: expected from 1
prepare shapes --output @/s --num_test 99999999999999 | --num_test: expected from 1
prepare shapes --output @/s --num_train 1.5 | --num_train: invalid int value: '1.5'
prepare shapes --output @/s --seed -1 | --seed: expected from 0 to 4294967295
prepare shapes --output @/s --image_size 0 | --image_size: expected from 32 to 16384
prepare shapes --output @/s --only nosuch | --only: invalid choice: 'nosuch'
prepare shapes --output @/s --only captions --splits testA | --splits: testA is no split of captions
prepare coco --output @/c | --source
prepare coco --source @/nosuch --output @/c | --source: the folder @/nosuch does not exist
prepare coco --source @/file --output @/c | --source: the folder @/file does not exist
prepare coco --source @ | --output is needed
prepare coco --source @ --output @/c --splits nosuch | --splits: invalid choice: 'nosuch'
prepare coco --source @ --output @/c --max_bad_fraction nan | --max_bad_fraction: expected from 0 to 1
prepare coco --source @ --output @/c --num_workers 0 | --num_workers: expected from 1 to 1024
prepare coco --source @ --output @/c --shorter_side -5 | --shorter_side: expected from 1
prepare coco --source @ --output @/c --max_image_pixels 0 | --max_image_pixels: expected at least 1
prepare refcoco --source @ --output @/c --shorter_side 5 | no option --shorter_side
prepare cola --source @ --output @/c --num_workers 1 | no option --num_workers
convert vilt --output @/v | --source
convert nosuch | no model nosuch
convert vilt --source @ --output "" | --output: expected a folder, got an empty name
convert vilt --source @ --output @/file/x | --output: @/file is a file
convert vilt --source @/nosuch --output @/v | source '@/nosuch'
convert vilt --source @ --output @/v --text_encoder x | no option --text_encoder
convert lxmert --source @ --output @/v --text_encoder a --vision_encoder b --cross_modal_layers 0 | --cross_modal_layers: expected from 1
convert lxmert --source @ --output @/v --text_encoder a --vision_encoder b --seed -1 | --seed: expected from 0
benchmark nosuch | no group nosuch
benchmark step --runs 0 | --runs: expected from 1
benchmark step --batch_size 1 | --batch_size: expected from 2
benchmark step --seed -1 | --seed: expected from 0
benchmark step --output @/none/x.json | --output: @/none/x.json: no such folder
benchmark step --device tpu | --device: invalid choice: 'tpu' (choose from
benchmark all --device mps | --device: invalid choice: 'mps' (choose from
benchmark step --precision fp8 | --precision: invalid choice: 'fp8' (choose from
benchmark step --compile nosuch | --compile: expected one of
benchmark pretrain --compile cudagraphs | cudagraphs records CUDA graphs, and this run is on the device cpu
benchmark pretrain --cuda_graphs | --cuda_graphs: needs a CUDA GPU
benchmark pretrain --steps 2 | --steps: expected from 8 to
benchmark all --minutes 0 | --minutes: expected more than 0
benchmark experiments --watts 0 | --watts: expected more than 0
benchmark experiments --rates @/nosuch.json | --rates: no such file or folder
benchmark experiments --rates @ | --rates: @ is not a file
benchmark experiments --runs 3 | no option --runs
benchmark loading --workers -1 | --workers: expected from 0
benchmark retrieval --rerank_top_k 5 | --rerank_top_k: expected at least 10
demo @/nosuch | '@/nosuch'
demo @ | '@'
"""


def repeated(indent: str, first: str, form: str) -> str:
    """Lines of which each has, in a `form`, the one before it ten times, by an alias."""
    lines = [f"a0: &a0 {first}"] + [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 12)]
    return "".join(f"{indent}{line}\n" for line in lines)


#: The text of a recipe for NLVR2, and what the line says.
RECIPES = {
    "seed: 1\nseed: 2\n": "seed is there twice, in lines 1 and 2",
    "text_overrides: {a: 1, a: 2}\n": "a is there twice",
    "learning_rate: [1, 2]\n": "learning_rate: expected one value, got a list of 2",
    "learning_rate: {a: 1}\n": "learning_rate: expected one value, got a mapping",
    "learning_rate: yes\n": "--learning_rate/--learning-rate: invalid float value: 'yes'",
    "max_steps: 2020-01-01\n": "--max_steps/--max-steps: invalid int value: '2020-01-01'",
    "max_steps: 0x10\n": "--max_steps/--max-steps: invalid int value: '0x10'",
    "max_steps: 1:30\n": "--max_steps/--max-steps: invalid int value: '1:30'",
    "weight_decay: .nan\n": "--weight_decay/--weight-decay: invalid float value: '.nan'",
    "max_steps: 1.5\n": "--max_steps/--max-steps: invalid int value: '1.5'",
    "do_eval: maybe\n": "--do_eval/--do-eval: expected true or false, got 'maybe'",
    "eval_strategy: off\n": "--eval_strategy/--eval-strategy: invalid choice: 'off'",
    "freeze: [[text]]\n": "freeze: expected a list of values, got a list with lists or gaps in it",
    "freeze: [text, null]\n": "freeze: expected a list of values, got a list with lists or gaps in it",
    "\tseed: 1\n": "recipe.yaml: not YAML (while scanning for the next token found character '\\t'",
    "seed: 1\n---\nseed: 2\n": "recipe.yaml: not YAML (expected a single document",
    "- seed\n": "recipe.yaml: expected a line `option: value` for each option",
    "just text\n": "recipe.yaml: expected a line `option: value` for each option",
    "# only a comment\n": "recipe.yaml: expected a line `option: value` for each option, got an empty file",
    "learning-rate: 1\n": "no option learning-rate; did you mean learning_rate?",
    "learning_rte: 1\n": "no option learning_rte; did you mean learning_rate?",
    "a: 1\nb: 2\nc: 3\nd: 4\n": "and 1 more; --help lists them",
    "1: 2\n": "no option 1;",
    "[a, b]: 2\n": "recipe.yaml: while constructing a mapping found unhashable key",
    "seed: *nothing\n": "recipe.yaml: not YAML (found undefined alias 'nothing'",
    "text_overrides: &a {x: *a}\n": "recipe.yaml: found unconstructable recursive node",
    "text_overrides: {x: !!python/name:os.system }\n": "recipe.yaml: the tag !!python/name:os.system in line 1 has no use in a recipe",
    "seed: !!int '3'\n": "recipe.yaml: the tag !!int in line 1 has no use in a recipe",
    "freeze: !!set {text}\n": "recipe.yaml: the tag !!set in line 1 has no use in a recipe",
    "run_name: !own x\n": "recipe.yaml: the tag !own in line 1 has no use in a recipe",
    "text_overrides: {1: 2, 0x1: 3}\n": "recipe.yaml: 0x1 is there twice",
    "&k seed: 1\n*k : 2\n": "recipe.yaml: seed is there twice",
    "report_to: [none, --seed, '5']\n": "recipe.yaml: report_to: expected a list of values, got the option --seed in it",
    "text_overrides: {a: %s}\n" % ("9" * 5000): "recipe.yaml: Exceeds the limit",
    'run_name: "\\ud800"\n': "recipe.yaml: run_name: half a character",
    "text_overrides: {a: .inf}\n": "text_overrides: cannot be read (expected a finite number, got Infinity)",
    repeated("", "[x]", "[{}]"): "recipe.yaml: the aliases in line 6 repeat values",
    "text_overrides:\n" + repeated("  ", "{x: 1}", "{{<<: [{}]}}"): "recipe.yaml: the aliases in line 7 repeat values",
    "freeze: [text\n": "recipe.yaml: not YAML (while parsing a flow sequence",
    "report_to: [tensorboard, none]\n": "report_to: none and all stand alone",
    'output_dir: "a\\0b"\n': "output_dir a\\x00b: cannot be made a folder (embedded null byte)",
    "max_train_samples: 0\n": "max_train_samples: expected at least 1, got 0",
}
