"""What is wrong with the file of a study is told in one line before anything runs."""

import pytest
import torch
import yaml
from test_studies import STUDY, WITH_BASELINES, study_of

from renaissance.commands.study import main
from renaissance.studies.checks import check_places
from renaissance.studies.notes import DONE, Note
from renaissance.studies.plan import runs_of


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("command: nlvr2", "command: nlvr", "stages: nlvr2: command: no command nlvr; did you mean nlvr2?"),
        ("recipe: nlvr2_shapes", "recipe: nlvr2_shape", "recipe nlvr2_shape: no such file; did you mean nlvr2_shapes?"),
        ("use_cpu: true", "use_cpus: true", "stages: pretraining (both, 1.0e-4): no option --use_cpus; did you mean --use_cpu?"),
        ("use_cpu: true", "use_cpu: maybe", "--use_cpu"),
        ("use_cpu: true", "output_dir: here", "output_dir: the study chooses it"),
        ("use_cpu: true", "token: hf_secret", "token: commands are written to files; set HF_TOKEN in the environment"),
        ("nlvr2.learning_rate", "nlvr2.learning_rat", "no option --learning_rat; did you mean --learning_rate?"),
        ("nlvr2.learning_rate", "nlvr.learning_rate", "axes: nlvr.learning_rate: no stage nlvr; did you mean nlvr2?"),
        ("nlvr2.learning_rate", "learning_rate", "a list of values needs the name of an option"),
        ("[1.0e-4, 1.0e-3]", "[]", "axes: nlvr2.learning_rate: expected at least one value"),
        ("[1.0e-4, 1.0e-3]", "[1.0e-4, 1.0e-4]", "a value is there twice"),
        ("[1.0e-4, 1.0e-3]", "[1.0e-4, 0.0001]", "the variants both, 1.0e-4 and both, 0.0001 are the same runs"),
        ("[1.0e-4, 1.0e-3]", "[fast]", "invalid float value: 'fast'"),
        ("{{objectives: [mlm]}}", "{{}}", "the variants both, 1.0e-4 and mlm | alone, 1.0e-4 are the same runs"),
        ("{{objectives: [mlm]}}", "{{encoder: vit}}", "pretraining mlm_alone-seed1: encoder: without effect on a two-tower model"),
        ("from: pretraining, seeds", "from: pretraining, options: {{text_encoder: bert}}, seeds", "glue both: text_encoder: without effect on a checkpoint"),
        ("{{objectives: [mlm]}}", "{{objectives: [mlm], itm_text: clean}}", "pretraining mlm_alone-seed1: itm_text: without effect on the objectives mlm"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds: one is there twice"),
        ("seeds: [1, 2]", "seeds: many", "seeds: expected whole numbers, got ['many']"),
        ("seeds: [1, 2]", "seed: [1, 2]", "no entry seed; did you mean seeds?"),
        ("from: pretraining, seeds", "from: nothing, seeds", "stages: glue: from: no stage nothing before this one"),
        ("from: pretraining, seeds", "form: pretraining, seeds", "no entry form; did you mean from?"),
        ("{{use_cpu: true}}", "{{train_file: '{nlvr2}/x.csv'}}", "stages: pretraining: nlvr2 comes after it; move it up"),
        ("command: glue", "command: recipes", "stages: glue"),
        ("command: glue, recipe: glue_shapes", "command: prepare shapes, recipe: glue_shapes", "`renaissance prepare` takes none"),
        ("seeds: false", "seeds: perhaps", "expected true or false, got perhaps"),
        ("output_dir: {folder}/out\n", "", "output_dir must be given"),
        ("glue_shapes, from: pretraining", "glue_shapes, from: pretraining, baselines: [text_removed]", "stages: glue: baselines: `renaissance glue` has no two kinds of input"),
        ("nlvr2_shapes,", "nlvr2_shapes, baselines: [text_remove],", "stages: nlvr2: baselines: no baseline text_remove; did you mean text_removed?"),
        ("nlvr2_shapes,", "nlvr2_shapes, baselines: [text_removed, text_removed],", "stages: nlvr2: baselines: expected a list of some of text_removed, image_removed"),
        ("nlvr2_shapes,", "nlvr2_shapes, baselines: text_removed,", "stages: nlvr2: baselines: expected a list of some of text_removed, image_removed"),
        ("nlvr2_shapes,", "nlvr2_shapes, baselines: [text_removed], options: {{do_train: false}},", "stages: nlvr2_text_removed (both, 1.0e-4): nlvr2 trains nothing (do_train), and has no baselines"),
        ("nlvr2_shapes,", "nlvr2_shapes, baselines: [trained_without_text], options: {{push_to_hub: true}},", "nlvr2_trained_without_text (both, 1.0e-4): push_to_hub would push models that lack an input"),
        ("command: nlvr2, recipe: nlvr2_shapes", "command: refcoco, recipe: refcoco_shapes, baselines: [image_removed]", "nlvr2_image_removed both-1.0e-4-seed1: remove_input: images of this task are what it chooses from"),
        ("stages:", "stages: [", "study"),
        ("both:", "mlm | alone:", "mlm | alone is there twice"),
        ("{{use_cpu: true}}", "{{train_datasets: ['{pretrainin}/x']}}", "stages: pretraining (both, 1.0e-4): {pretrainin}: no stage pretrainin; did you mean pretraining?"),
        ("{{use_cpu: true}}", "{{train_datasets: ['{folder}/nowhere'], use_cpu: true}}", "pretraining both-seed1: train_datasets: no such file or folder {folder}/nowhere, and no stage before it makes it"),
        ("{{use_cpu: true}}", "{{train_datasets: ['~/nowhere'], use_cpu: true}}", "no such file or folder ~/nowhere, and no stage before it makes it; ~ is not expanded in options"),
        ("{{use_cpu: true}}", "{{use_cpu: true}}", "pretraining both-seed1: train_datasets: no such file or folder demo/shapes/captions, and"),
        ("{{objectives: [mlm]}}", "{{objectives: [itm, mlm]}}", "the variants both, 1.0e-4 and mlm | alone, 1.0e-4 are the same runs"),
        ("both: {{}}", "both: {{pretraining: {{freeze: [text, vision]}}}}\n    again: {{pretraining: {{freeze: [vision, text]}}}}", "the variants both, 1.0e-4 and again, 1.0e-4 are the same runs"),
        ("both: {{}}", "both: {{pretraining: {{freeze: [text, vision, cross_modal]}}}}\n    again: {{pretraining: {{freeze: [encoder]}}}}", "the variants both, 1.0e-4 and again, 1.0e-4 are the same runs"),
        ("output_dir: {folder}/out", "output_dir: ~nobody-of-this-name/out", "output_dir: "),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line_before_anything_runs(tmp_path, capsys, old, new, message):
    assert old in STUDY
    path, message = tmp_path / "study.yaml", message.replace("{folder}", str(tmp_path))
    text = STUDY.replace(old, new, 1).replace("{folder}", str(tmp_path))
    path.write_text(text.replace("{{", "{").replace("}}", "}"))
    with pytest.raises(SystemExit) as end:
        main(["run", str(path)])
    errors = capsys.readouterr().err
    assert end.value.code == 2 and message in errors and errors.count("\n") == 1 and str(path) in errors
    assert not (tmp_path / "out").exists()


def test_labels_of_different_variants_that_read_alike_are_a_mistake(tmp_path, refused):
    text = (
        STUDY.split("axes:")[0]
        + """
axes:
  first: {{a: {{}}, "a, b": {{pretraining: {{max_steps: 2}} }} }}
  other: {{"b, c": {{}}, c: {{nlvr2: {{max_steps: 2}} }} }}
"""
    )
    told = refused(main, ["run", str(study_of(text, tmp_path).path), "--dry_run"])
    assert (
        "first: a with other: b, c and first: a, b with other: c would both be called 'a, b, c'; rename a label"
        in told
    )


def test_variants_and_their_baselines_have_names_of_their_own(tmp_path, refused):
    text = (
        WITH_BASELINES
        + """
axes:
  data: {{all: {{}}, all (text removed): {{nlvr2: {{max_train_samples: 20}}}}}}
"""
    )
    study = study_of(text, tmp_path)
    assert (
        "data: all and data: all (text removed) would both be called 'all (text removed)'; rename a label"
        in refused(main, ["run", str(study.path), "--dry_run"])
    )


def test_a_study_without_a_run_is_a_mistake(tmp_path, refused):
    text = "output_dir: {folder}/out\nstages: {{data: {{command: prepare shapes}} }}\naxes: {{kind: {{none: {{data: null}} }} }}\n"
    study = study_of(text, tmp_path)
    for action in (["run", "--dry_run"], ["run"], ["table"]):
        told = refused(main, [action[0], str(study.path), *action[1:]])
        assert "axes: no variant has a run, for all their stages are null" in told


def test_names_in_braces_that_an_option_has_of_its_own(tmp_path):
    """Those of the files of downloaded images; of a stage they are its folder there too."""
    text = """
output_dir: {folder}/out
stages:
  web:
    command: prepare gcc
    options: {{source: x, image_name: "{md5}.jpg"}}
"""
    (run,) = runs_of(study_of(text, tmp_path))
    assert run.options["image_name"] == "{md5}.jpg"


def test_the_home_of_the_user_is_not_a_folder_called_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    study = study_of(STUDY.replace("{folder}/out", "~/out"), tmp_path)
    assert study.output_dir == tmp_path / "home" / "out"
    keys = [run.key for run in runs_of(study)]
    assert keys == [run.key for run in runs_of(study_of(STUDY, tmp_path))]


def test_what_is_not_here_may_be_on_the_machine_that_runs_a_study(tmp_path, caplog):
    """The first words of a dry run, and of a script for a cluster; a run that is done needs its data no more."""
    study = study_of(STUDY, tmp_path)
    for argv in (["run", str(study.path), "--dry_run"], ["launch", str(study.path), "--slurm", "--jobs", "2"]):
        caplog.clear()
        with pytest.raises(SystemExit) as end:
            main(argv)
        told = [line for line in caplog.messages if "no such file or folder demo/shapes/captions" in line]
        assert end.value.code == 0 and len(told) == 1
    for run in runs_of(study):
        if run.stage.name == "pretraining":
            run.folder.mkdir(parents=True)
            Note(DONE).write(run)
    with pytest.raises(
        ValueError, match=r"nlvr2 both-1\.0e-4-seed1: dataset: no such file or folder demo/shapes/nlvr2"
    ):
        check_places(study, runs_of(study))


def test_a_study_that_does_not_exist(tmp_path, capsys):
    for name in ("nothing.yaml", str(tmp_path)):
        with pytest.raises(SystemExit) as end:
            main(["run", name])
        assert end.value.code == 2 and f"study {name}: no such file" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a CUDA GPU")
def test_a_study_for_another_machine_is_looked_at_here_and_not_run(tmp_path, capsys, caplog, refused):
    """On the node from which jobs are sent, say. What would be wrong anywhere is refused there too."""
    options = {"cuda_graphs": True, "max_length": 32}
    stages = {"pretraining": {"command": "pretrain", "recipe": "pretrain_shapes_two_tower", "options": options}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": stages}))
    fault = "cuda_graphs: needs a CUDA GPU, and this run is on the device cpu"
    for argv in (["run", str(path), "--dry_run"], ["launch", str(path), "--slurm", "--jobs", "2"]):
        caplog.clear()
        with pytest.raises(SystemExit) as end:
            main(argv)
        told = {"run": "--cuda_graphs", "launch": "#SBATCH --array=0-1"}[argv[0]]
        assert end.value.code == 0 and told in capsys.readouterr().out
        assert [line for line in caplog.messages if fault in line and "not for this machine" in line]
    assert fault in refused(main, ["run", str(path)])
    options["text_buckets"] = [16, 8]
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": stages}))
    assert "text_buckets: expected rising numbers" in refused(main, ["run", str(path), "--dry_run"])


CANNOT = {
    "a head that the architecture has not": (
        {"nlvr2": {"command": "nlvr2", "recipe": "nlvr2_shapes", "from": "pretraining"}},
        {"dual": {"pretraining": {"recipe": "pretrain_shapes_dual_encoder"}}},
        "nlvr2 dual: model_name_or_path: ",
        "will be of the architecture dual-encoder, which fuses no text with an image, as this task needs",
    ),
    "a head that nobody has trained": (
        {"nlvr2": {"command": "nlvr2", "from": "pretraining", "options": {"dataset": "data", "do_eval": True}}},
        {},
        "nlvr2: model_name_or_path: ",
        "is TwoTowerForPreTraining, whose head for this task would be new",
    ),
    "an objective that the architecture has not": (
        {},
        {"dual": {"pretraining": {"recipe": "pretrain_shapes_dual_encoder", "objectives": ["mlm"]}}},
        "pretraining dual: objectives: mlm needs texts that are fused with images",
        "the architecture dual-encoder does not do",
    ),
    "an objective that the pretraining had not": (
        {
            "shuffled": {
                "command": "pretrain",
                "from": "pretraining",
                "options": {"eval_datasets": ["data"], "do_eval": True, "ablation": "text_shuffled"},
            }
        },
        {"mlm": {"pretraining": {"objectives": ["mlm"]}}},
        "shuffled mlm: ablation: text_shuffled is of the objective itm",
        "the model has mlm",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_task_that_a_variant_cannot_do_is_refused_before_anything_runs(tmp_path, refused, case):
    stages, point, *messages = CANNOT[case]
    stages = {"pretraining": {"command": "pretrain", "recipe": "pretrain_shapes_two_tower"}} | stages
    axes = {"axes": {"variant": {"both": {}} | point}} if point else {}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "stages": stages} | axes, sort_keys=False))
    for argv in (["run", str(path)], ["run", str(path), "--dry_run"]):
        told = refused(main, argv)
        assert all(message in told for message in messages) and not (tmp_path / "out").exists()
