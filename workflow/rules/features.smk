rule extract_features:
    input:
        config="results/{dataset}/config/teacher-{teacher}.yaml",
        model=trained_teacher,
        weights=weights_of_teacher,
        split="results/{dataset}/splits/train.jsonl",
        images=images_of_splits,
    output:
        image="results/{dataset}/seed{seed}/teacher-{teacher}/features/image.npy",
        text="results/{dataset}/seed{seed}/teacher-{teacher}/features/text.npy",
        index="results/{dataset}/seed{seed}/teacher-{teacher}/features/index.json",
    log:
        "results/{dataset}/logs/seed{seed}/features-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/features-{teacher}.tsv"
    wildcard_constraints:
        teacher=one_of(EXTRACTED),
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    resources:
        gpu=processes_of,
    params:
        model=model_option,
        gpu=gpu_option,
        output=subpath(output.index, parent=True),
    shell:
        "python -m rvlr extract --config {input.config} {params.model} {params.gpu} --split {input.split} "
        "--output {params.output} --log-file {log}"


# What single-modal teachers know of the photographs that models are measured with.
use rule extract_features as extract_test_features with:
    input:
        config="results/{dataset}/config/teacher-{teacher}.yaml",
        model=trained_teacher,
        weights=weights_of_teacher,
        split="results/{dataset}/splits/test.jsonl",
        images=images_of_splits,
    output:
        image="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/image.npy",
        text="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/text.npy",
        index="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/index.json",
    log:
        "results/{dataset}/logs/seed{seed}/features-test-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/features-test-{teacher}.tsv"


rule copy_features:
    input:
        features=stored_features_of("train"),
        split="results/{dataset}/splits/train.jsonl",
        about="results/{dataset}/splits/dataset.json",
    output:
        image="results/{dataset}/seed{seed}/teacher-{teacher}/features/image.npy",
        text="results/{dataset}/seed{seed}/teacher-{teacher}/features/text.npy",
        index="results/{dataset}/seed{seed}/teacher-{teacher}/features/index.json",
    log:
        "results/{dataset}/logs/seed{seed}/features-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/features-{teacher}.tsv"
    wildcard_constraints:
        teacher=one_of(SETTINGS.stored_features()),
    conda:
        "../envs/rvlr.yaml"
    params:
        features=features_folder,
        output=subpath(output.index, parent=True),
    shell:
        "python -m rvlr copy-features --features {params.features:q} --split {input.split} "
        "--output {params.output} --log-file {log}"


use rule copy_features as copy_test_features with:
    input:
        features=stored_features_of("test"),
        split="results/{dataset}/splits/test.jsonl",
        about="results/{dataset}/splits/dataset.json",
    output:
        image="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/image.npy",
        text="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/text.npy",
        index="results/{dataset}/seed{seed}/teacher-{teacher}/features-test/index.json",
    log:
        "results/{dataset}/logs/seed{seed}/features-test-{teacher}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/features-test-{teacher}.tsv"
