"""Changes to a model folder."""

import json

from safetensors.numpy import load_file, save_file

from tests.tiny_models import WIDTH


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors)
    # What is changed in place comes with any other result, such as what was taken out.
    save_file(changed if isinstance(changed, dict) else tensors, folder / "model.safetensors")


def old_layout(bert, pooling="pooling_mode_cls_token", transformer="0_Transformer"):
    """How sentence-transformers wrote folders before its classes moved."""
    root = bert.parent / "old"
    root.mkdir()
    bert.rename(root / transformer)
    types = {transformer: "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    (root / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": path,
                    "type": f"sentence_transformers.models.{t}",
                }
                for i, (path, t) in enumerate(types.items())
            ]
        )
    )
    (root / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    (root / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": WIDTH} | flags | {pooling: True})
    )
    (root / transformer / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 18, "do_lower_case": True})
    )
    return root
