rule evaluate_model:
    input:
        config="results/{dataset}/config/evaluation.yaml",
        model="results/{dataset}/seed{seed}/{run}/model",
        split="results/{dataset}/splits/test.jsonl",
        relevance="results/{dataset}/relevance/test.npy",
        about="results/{dataset}/relevance/test.json",
        images=images_of_splits,
    output:
        metrics="results/{dataset}/seed{seed}/{run}/eval/test.json",
        rankings="results/{dataset}/seed{seed}/{run}/eval/rankings.npz",
    log:
        "results/{dataset}/logs/seed{seed}/evaluate-{run}.log",
    benchmark:
        "results/{dataset}/benchmarks/seed{seed}/evaluate-{run}.tsv"
    conda:
        "../envs/rvlr.yaml"
    threads: 8
    resources:
        gpu=1,
    params:
        output=subpath(output.metrics, parent=True),
    shell:
        "python -m rvlr evaluate --config {input.config} --run {wildcards.run} --seed {wildcards.seed} "
        "--model {input.model} --split {input.split} --relevance {input.relevance} "
        "--output {params.output} --log-file {log}"
