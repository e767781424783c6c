"""Saves a small `SamModel` of transformers and exports it with optimum: run with their versions on the path.

python optimum_export.py  folder of the model  folder of the graphs
"""

from __future__ import annotations

import sys
from importlib import import_module

import torch
from support.reference import timm, torchvision


def main() -> None:
    model_folder, graphs = sys.argv[1:]
    torchvision(), timm()
    package = import_module("transformers")
    vision = package.SamVisionConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=128, patch_size=16, window_size=3,
        global_attn_indexes=[1], mlp_dim=256, output_channels=256,
    )  # fmt: skip
    prompts = package.SamPromptEncoderConfig(image_size=128, patch_size=16)
    torch.manual_seed(0)
    sam = package.SamModel(package.SamConfig(vision.to_dict(), prompts.to_dict())).eval()
    for weight in sam.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, 0.05)
    sam.save_pretrained(model_folder)
    processor = package.SamImageProcessor(size={"longest_edge": 128}, pad_size={"height": 128, "width": 128})
    package.SamProcessor(processor).save_pretrained(model_folder)
    exporter = import_module("optimum.exporters.onnx")
    exporter.main_export(model_folder, output=graphs, task="feature-extraction", do_validation=False)


if __name__ == "__main__":
    main()
