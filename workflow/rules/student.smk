rule train_student:
    input:
        config="results/{dataset}/config/student-{student}.yaml",
        start=start_of_student,
        features=features_of_student,
        train="results/{dataset}/splits/train.jsonl",
        val="results/{dataset}/splits/val.jsonl",
        relevance=relevance_of_val,
        images=images_of_splits,
    output:
        model=directory("results/{dataset}/seed{seed}/student-{student}/model"),
        metrics="results/{dataset}/seed{seed}/student-{student}/metrics.jsonl",
        config="results/{dataset}/seed{seed}/student-{student}/config.yaml",
        tensorboard=directory(
            "results/{dataset}/seed{seed}/student-{student}/tensorboard"
        ),
    log:
        "results/{dataset}/logs/seed{seed}/student-{student}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/student-{student}.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    resources:
        gpu=processes_of,
    params:
        splits=subpath(input.train, parent=True),
        features=features_folder,
        relevance=relevance_option,
        gpu=gpu_option,
        output=subpath(output.config, parent=True),
        resume="results/{dataset}/resume/seed{seed}/student-{student}",
    shell:
        "python -m rvlr train-student --config {input.config} --seed {wildcards.seed} --start-model {input.start} "
        "--splits {params.splits} --features {params.features} {params.relevance} {params.gpu} "
        "--resume {params.resume} --output {params.output} --log-file {log}"
