"""BLiMP through the lm-evaluation-harness on a trained language model, against plain transformers."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tr
import yaml

import assets
import modalnet as mn
from modalnet.interop.harness import lm_eval

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.real

PARADIGM, N = "anaphor_number_agreement", 40


def test_blimp_counts_what_plain_transformers_counts(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    data = assets.data("blimp") / f"{PARADIGM}.jsonl"
    task = {
        # As in the harness' own blimp tasks, but for the place of the data.
        "task": "blimp_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": str(data)}},
        "output_type": "multiple_choice",
        "validation_split": "train",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "blimp_local.yaml").write_text(yaml.safe_dump(task))
    model = mn.load(assets.gemma(), dtype="float32")
    found = lm_eval(model, (), "blimp_local", include_path=tmp_path, limit=N)
    samples = sorted(found["samples"]["blimp_local"], key=lambda row: row["doc_id"])
    rows = [json.loads(line) for line in data.read_text().splitlines()[:N]]
    assert [row["doc"]["sentence_good"] for row in samples] == [row["sentence_good"] for row in rows]

    tokenizer = tr.AutoTokenizer.from_pretrained(assets.gemma())
    plain = tr.AutoModelForCausalLM.from_pretrained(assets.gemma(), dtype=torch.float32).eval()
    right = 0
    for row in samples:
        totals = []
        for (_, text), ((answer, _),) in zip(row["arguments"], row["resps"], strict=True):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            assert ids[0, 0] == tokenizer.bos_token_id
            with torch.no_grad():
                logprob = plain(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            totals.append(float(logprob.gather(-1, ids[0, 1:, None]).sum()))
            assert answer == pytest.approx(totals[-1], rel=1e-4)
        right += totals[0] > totals[1]
    assert found["results"]["blimp_local"]["acc,none"] == right / N
    assert right > N / 2, "the trained model knows the paradigm"

    # A lesion of every unit of the last block leaves nothing to tell the sentences apart by.
    lesioned = lm_eval(model, mn.zero(mn.site("decoder", -1)), "blimp_local", include_path=tmp_path, limit=4)
    changed = sorted(lesioned["samples"]["blimp_local"], key=lambda row: row["doc_id"])
    assert all(a["resps"] != b["resps"] for a, b in zip(changed, samples, strict=False))
