rule evaluate_model:
    input:
        config="results/{dataset}/config/evaluation.yaml",
        model="results/{dataset}/seed{seed}/{run}/model",
        train="results/{dataset}/splits/train.jsonl",
        split="results/{dataset}/splits/test.jsonl",
        relevance="results/{dataset}/relevance/test.npy",
        about="results/{dataset}/relevance/test.json",
        scenes=scene_relevance,
        teachers=test_features_of_teachers,
        images=images_of_splits,
        ratings=rating_files,
    output:
        metrics="results/{dataset}/seed{seed}/{run}/eval/test.json",
        rankings="results/{dataset}/seed{seed}/{run}/eval/rankings.npz",
    log:
        "results/{dataset}/logs/seed{seed}/evaluate-{run}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/evaluate-{run}.tsv"
    wildcard_constraints:
        run=one_of(RUNS_WITH_MODELS),
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        scenes=scenes_option,
        teachers=teacher_options,
        ratings=ratings_option,
        gpu=gpu_option,
        output=subpath(output.metrics, parent=True),
    shell:
        "python -m rvlr evaluate --config {input.config} --run {wildcards.run} --seed {wildcards.seed} "
        "--model {input.model} --train {input.train} --split {input.split} --relevance {input.relevance} "
        "{params.scenes} {params.teachers} {params.ratings} {params.gpu} --output {params.output} --log-file {log}"


# What there is to preserve within each modality.
rule evaluate_features:
    input:
        config="results/{dataset}/config/evaluation.yaml",
        features=multiext(
            "results/{dataset}/seed{seed}/teacher-{teacher}/features-test/",
            "image.npy",
            "text.npy",
            "index.json",
        ),
        split="results/{dataset}/splits/test.jsonl",
        relevance="results/{dataset}/relevance/test.npy",
        about="results/{dataset}/relevance/test.json",
        scenes=scene_relevance,
        ratings=rating_files,
    output:
        metrics="results/{dataset}/seed{seed}/teacher-{teacher}/eval/test.json",
        rankings="results/{dataset}/seed{seed}/teacher-{teacher}/eval/rankings.npz",
    log:
        "results/{dataset}/logs/seed{seed}/evaluate-features-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/evaluate-features-{teacher}.tsv"
    wildcard_constraints:
        teacher=one_of(map(runs.name, SETTINGS.feature_runs())),
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    params:
        run=lambda wildcards: runs.teacher(wildcards.teacher),
        features=features_folder,
        scenes=scenes_option,
        ratings=ratings_option,
        output=subpath(output.metrics, parent=True),
    shell:
        "python -m rvlr evaluate-features --config {input.config} --run {params.run} --seed {wildcards.seed} "
        "--features {params.features} --split {input.split} --relevance {input.relevance} "
        "{params.scenes} {params.ratings} --output {params.output} --log-file {log}"
