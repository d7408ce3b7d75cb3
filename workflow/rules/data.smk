rule prepare_data:
    input:
        config=frozen_for_preparation,
        # only to refuse captions that its scorer cannot compare: another scorer does not change the splits
        relevance=ancient("results/{dataset}/config/relevance.yaml"),
        source=annotation_files,
    output:
        splits=expand("results/{{dataset}}/splits/{split}.jsonl", split=SPLITS),
        about="results/{dataset}/splits/dataset.json",
        images=prepared_images(),
    log:
        "results/{dataset}/logs/prepare.log",
    benchmark:
        "results/{dataset}/benchmarks/prepare.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    params:
        downloads=downloads_folder,
        folder=subpath(output.about, ancestor=2),
    shell:
        "python -m rvlr prepare --config {input.config[0]} --relevance {input.relevance} "
        "--downloads {params.downloads:q} --output {params.folder} --log-file {log}"


rule verify_images:
    input:
        images=fetched_images,
        splits=rules.prepare_data.output.splits,
        about=rules.prepare_data.output.about,
    output:
        "results/{dataset}/verified.json",
    log:
        "results/{dataset}/logs/verify.log",
    benchmark:
        "results/{dataset}/benchmarks/verify.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    params:
        splits=subpath(input.about, parent=True),
    shell:
        "python -m rvlr data verify --splits {params.splits} --output {output} --log-file {log}"


rule cache_images:
    input:
        config="results/{dataset}/config/dataset.yaml",
        images=fetched_images,
        splits=rules.prepare_data.output.splits,
        about=rules.prepare_data.output.about,
    output:
        directory("results/{dataset}/cache"),
    log:
        "results/{dataset}/logs/cache.log",
    benchmark:
        "results/{dataset}/benchmarks/cache.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    params:
        splits=subpath(input.about, parent=True),
    shell:
        "python -m rvlr data cache --config {input.config} --splits {params.splits} --output {output} --log-file {log}"
