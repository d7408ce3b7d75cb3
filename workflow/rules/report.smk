rule summarise:
    input:
        shown="results/{dataset}/config/report.yaml",
        evaluations=evaluation_files(),
        rankings=rankings_files(),
    output:
        html=report(
            "results/{dataset}/summary.html",
            caption="../report/summary.rst",
            category="1. Tables",
            labels={"table": "all tables, to read"},
        ),
        csv=report(
            "results/{dataset}/summary.csv",
            caption="../report/summary-csv.rst",
            category="1. Tables",
            labels={"table": "all numbers, CSV"},
        ),
        comparisons=report(
            "results/{dataset}/comparisons.csv",
            caption="../report/comparisons.rst",
            category="1. Tables",
            labels={"table": "differences between models, CSV"},
        ),
        markdown="results/{dataset}/summary.md",
        text="results/{dataset}/summary.txt",
    log:
        "results/{dataset}/logs/summarise.log",
    benchmark:
        "results/{dataset}/benchmarks/summarise.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr summarise {input.evaluations} --csv {output.csv} --comparisons {output.comparisons} "
        "--markdown {output.markdown} --html {output.html} --text {output.text} --log-file {log}"


rule plot_losses:
    input:
        shown="results/{dataset}/config/report.yaml",
        metrics=metrics_files(),
    output:
        report(
            "results/{dataset}/figures/losses.png",
            caption="../report/losses.rst",
            category="2. Figures",
            labels={"figure": "curves of the trainings"},
        ),
    log:
        "results/{dataset}/logs/plot-losses.log",
    benchmark:
        "results/{dataset}/benchmarks/plot-losses.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr plot-losses {input.metrics} --output {output} --log-file {log}"


rule plot_three_ways:
    input:
        shown="results/{dataset}/config/report.yaml",
        evaluations=evaluation_files(),
        rankings=rankings_files(),
    output:
        report(
            "results/{dataset}/figures/three-ways.png",
            caption="../report/three-ways.rst",
            category="2. Figures",
            labels={"figure": "three ways of retrieval, with intervals"},
        ),
    log:
        "results/{dataset}/logs/plot-three-ways.log",
    benchmark:
        "results/{dataset}/benchmarks/plot-three-ways.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr plot-three-ways {input.evaluations} --output {output} --log-file {log}"


rule plot_differences:
    input:
        shown="results/{dataset}/config/report.yaml",
        evaluations=evaluation_files(),
        rankings=rankings_files(),
    output:
        report(
            "results/{dataset}/figures/differences.png",
            caption="../report/differences.rst",
            category="2. Figures",
            labels={"figure": "differences between models, with intervals"},
        ),
    log:
        "results/{dataset}/logs/plot-differences.log",
    benchmark:
        "results/{dataset}/benchmarks/plot-differences.tsv"
    conda:
        "../envs/rvlr.yaml"
    shell:
        "python -m rvlr plot-differences {input.evaluations} --output {output} --log-file {log}"


rule draw_sheets:
    input:
        shown="results/{dataset}/config/sheets.yaml",
        rankings=f"results/{{dataset}}/seed{SETTINGS.seeds[0]}/{{run}}/eval/rankings.npz",
        split="results/{dataset}/splits/test.jsonl",
        images=images_of_splits,
    output:
        cross=report(
            "results/{dataset}/figures/{run}-cross-modal.png",
            caption="../report/sheet.rst",
            category="3. Examples",
            labels={"model": "{run}", "retrieval": "between the modalities"},
        ),
        single=report(
            "results/{dataset}/figures/{run}-single-modal.png",
            caption="../report/sheet.rst",
            category="3. Examples",
            labels={"model": "{run}", "retrieval": "within one"},
        ),
    log:
        "results/{dataset}/logs/sheets-{run}.log",
    benchmark:
        "results/{dataset}/benchmarks/sheets-{run}.tsv"
    conda:
        "../envs/rvlr.yaml"
    params:
        queries=SETTINGS.evaluation.queries_shown,
    shell:
        "python -m rvlr draw-sheets --rankings {input.rankings} --split {input.split} --run {wildcards.run} "
        "--queries {params.queries} --cross-modal {output.cross} --single-modal {output.single} --log-file {log}"
