rule compute_relevance:
    input:
        config="results/{dataset}/config/relevance.yaml",
        split="results/{dataset}/splits/{split}.jsonl",
        about="results/{dataset}/splits/dataset.json",
    output:
        matrix="results/{dataset}/relevance/{split}.npy",
        about="results/{dataset}/relevance/{split}.json",
    log:
        "results/{dataset}/logs/relevance-{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/relevance-{split}.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    shell:
        "python -m rvlr relevance --config {input.config} --captions {input.split} "
        "--output {output.matrix} --log-file {log}"


rule compute_scene_relevance:
    input:
        split="results/{dataset}/splits/{split}.jsonl",
        about="results/{dataset}/splits/dataset.json",
    output:
        matrix="results/{dataset}/relevance/scenes-{split}.npy",
        about="results/{dataset}/relevance/scenes-{split}.json",
    log:
        "results/{dataset}/logs/relevance-scenes-{split}.log",
    benchmark:
        "results/{dataset}/benchmarks/relevance-scenes-{split}.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr scene-relevance --split {input.split} --output {output.matrix} --log-file {log}"
