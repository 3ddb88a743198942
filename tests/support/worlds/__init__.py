"""Worlds small enough for a stage to run in seconds: records, and models that can learn them.

`towns` (sentences and demonstrations, for sft), `rankings` (answers with a good or a bad word, for
feedback, rm and dpo), `articles` (documents, for rag), `evaluation` (one benchmark item of each
kind), `ppo` (16 tokens and a word that pays). `stages` runs a stage as the pipeline would, with
small settings; `trackers` stop one; `tiny_models` and `tiny_families` are random models alone.
"""
