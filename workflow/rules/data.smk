rule prepare_data:
    input:
        config="results/{dataset}/config/dataset.yaml",
        source=source_files,
    output:
        splits=expand("results/{{dataset}}/splits/{split}.jsonl", split=SPLITS),
        about="results/{dataset}/splits/dataset.json",
        images=prepared_images(),
    log:
        "results/{dataset}/logs/prepare.log",
    benchmark:
        "results/{dataset}/benchmarks/prepare.tsv"
    conda:
        "../../envs/rvlr.yaml"
    params:
        folder=subpath(output.about, ancestor=2),
    shell:
        "python -m rvlr prepare --config {input.config} --output {params.folder} --log-file {log}"
