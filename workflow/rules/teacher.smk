rule initialise_model:
    input:
        config="results/{dataset}/config/initial-{model}.yaml",
        split="results/{dataset}/splits/train.jsonl",
        about="results/{dataset}/splits/dataset.json",
        weights=weights_of_model,
    output:
        directory("results/{dataset}/seed{seed}/initial-{model}/model"),
    log:
        "results/{dataset}/logs/seed{seed}/initial-{model}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/initial-{model}.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr initialise --config {input.config} --seed {wildcards.seed} --split {input.split} "
        "--output {output} --log-file {log}"


rule train_teacher:
    input:
        config="results/{dataset}/config/teacher-{teacher}.yaml",
        start=start_of_teacher,
        train="results/{dataset}/splits/train.jsonl",
        val="results/{dataset}/splits/val.jsonl",
        relevance=relevance_of_val,
        images=images_of_splits,
    output:
        model=directory("results/{dataset}/seed{seed}/teacher-{teacher}/model"),
        metrics="results/{dataset}/seed{seed}/teacher-{teacher}/metrics.jsonl",
        config="results/{dataset}/seed{seed}/teacher-{teacher}/config.yaml",
        tensorboard=directory(
            "results/{dataset}/seed{seed}/teacher-{teacher}/tensorboard"
        ),
    log:
        "results/{dataset}/logs/seed{seed}/teacher-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/teacher-{teacher}.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    resources:
        gpu=processes_of,
    params:
        splits=subpath(input.train, parent=True),
        relevance=relevance_option,
        gpu=gpu_option,
        output=subpath(output.config, parent=True),
        resume="results/{dataset}/resume/seed{seed}/teacher-{teacher}",
    shell:
        "python -m rvlr train-teacher --config {input.config} --seed {wildcards.seed} --start-model {input.start} "
        "--splits {params.splits} {params.relevance} {params.gpu} --resume {params.resume} --output {params.output} "
        "--log-file {log}"
