"""Mutants outside the details of PPO, for `scripts/mutate.py`: one wrong line each, by area.

The tests of a mutant are named here, so that one is tried in a second or two: no detail's mark
holds them. A line that is mutated should be one that somebody could get wrong and nobody would see.
"""

from __future__ import annotations

from typing import NamedTuple


class OtherMutant(NamedTuple):
    """A patch that must match once, and the tests of which one must fail."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """As `file::test`, named from tests/."""


GENERATION = "plumbrule/lm/generation/test_generation.py"
PROCESS = "plumbrule/lm/generation/test_vllm_process.py"
SCORING = "plumbrule/lm/test_logprobs.py"
LOSSES = "rlhf/reward_model/test_losses.py"
FROZEN = "rlhf/reward_model/test_frozen_layers.py"
CONVERSION = "plumbrule/lm/conversion/test_convert.py"
RANKING = "rag/index/test_ranking.py"
HALUEVAL = "eval/benchmarks/test_halueval.py"
TRUTHFULQA = "eval/benchmarks/multiple_choice/test_truthfulqa.py"
BBQ = "eval/benchmarks/multiple_choice/test_bbq.py"
REWARD_FORMULAS = "eval/reward_models/test_formulas.py"
REWARD_SUMMARY = "eval/reward_models/test_summary.py"
PREFERENCE_SETS = "plumbrule/data/readers/test_preference_sets.py"
PROTOCOLS = "eval/benchmarks/test_halueval_protocols.py"
JOURNAL = "eval/benchmarks/test_journal.py"
MEASURES = "eval/benchmarks/test_bold_measures.py"
SHARED = "plumbrule/lm/generation/test_shared_prefixes.py"

MUTANTS = [
    # The sampler
    OtherMutant(
        "sampler",
        "a picked token's log-prob is wrong where all logits are negative",
        "plumbrule/lm/generation/token_sampling.py",
        "return picked, (own - top[:, 0] - total.log()).float()",
        "return picked, (own - top[:, 0].clamp(min=0) - total.log()).float()",
        (f"{GENERATION}::test_a_picked_tokens_log_prob_does_not_depend_on_the_logits_level",),
    ),
    OtherMutant(
        "sampler",
        "a token of probability 0 can be picked",
        "plumbrule/lm/generation/token_sampling.py",
        "picked = torch.searchsorted(cumulative, target, right=True)[:, 0]",
        "picked = torch.searchsorted(cumulative, target)[:, 0]",
        (f"{GENERATION}::test_pick_by_hand",),
    ),
    OtherMutant(
        "sampler",
        "greedy log-probs are at the temperature",
        "plumbrule/lm/generation/token_sampling.py",
        "scaled = logits.double() / (temperature or 1.0)",
        "scaled = logits.double() / (temperature or 0.5)",
        (f"{GENERATION}::test_pick_by_hand",),
    ),
    OtherMutant(
        "sampler",
        "only the first stop token ends a response",
        "plumbrule/lm/generation/sampler.py",
        "stops = torch.tensor(policy.spec.stop_token_ids, device=device)",
        "stops = torch.tensor(policy.spec.stop_token_ids[:1], device=device)",
        (f"{GENERATION}::test_any_stop_token_ends_a_response",),
    ),
    OtherMutant(
        "sampler",
        "positions of new tokens are one behind",
        "plumbrule/lm/generation/kv_cache.py",
        "self._position = self._real_mask.sum(-1, keepdim=True) - limit",
        "self._position = self._real_mask.sum(-1, keepdim=True) - limit - 1",
        (f"{GENERATION}::test_slots_give_what_the_shrinking_batch_gives",),
    ),
    OtherMutant(
        "sampler",
        "rows that leave take another's cache",
        "plumbrule/lm/generation/kv_cache.py",
        "chosen[:, :, :length] = buffer[indices, :, :length]",
        "chosen[:, :, :length] = buffer[: len(indices), :, :length]",
        (
            f"{GENERATION}::test_a_preallocated_layer_holds_what_concatenation_would",
            f"{GENERATION}::test_greedy_equals_transformers_one_prompt_at_a_time",
        ),
    ),
    OtherMutant(
        "sampler",
        "copies of a prompt read the first prompt's end",
        "plumbrule/lm/generation/kv_cache.py",
        "hidden, real_mask = hidden[index], real_mask[index]",
        "hidden, real_mask = hidden[index * 0], real_mask[index]",
        (f"{GENERATION}::test_copies_of_several_prompts_in_one_batch_each_read_their_own",),
    ),
    OtherMutant(
        "sampler",
        "every token of a response has one random number",
        "plumbrule/lm/randomness.py",
        "bits = _mix(_mix(np.asarray(keys, dtype=np.uint64)) + steps * _GAMMA)",
        "bits = _mix(_mix(np.asarray(keys, dtype=np.uint64)) + steps * np.uint64(0))",
        ("plumbrule/lm/test_randomness.py::test_uniforms_equal_a_scalar_reference",),
    ),
    OtherMutant(
        "sampler",
        "1 and '1' have one key",
        "plumbrule/lm/randomness.py",
        "named = json.dumps([part if isinstance(part, str) else int(part) for part in parts])",
        "named = json.dumps([str(part) for part in parts])",
        ("plumbrule/lm/test_randomness.py::test_row_key_is_stable_and_tells_parts_apart",),
    ),
    OtherMutant(
        "sampler",
        "a log-prob is that of the token before",
        "plumbrule/lm/logprobs.py",
        "inputs = hidden[rows, columns - 1 - first]",
        "inputs = hidden[rows, columns - first]",
        (f"{SCORING}::test_equals_a_float64_loop_for_every_family",),
    ),
    OtherMutant(
        "sampler",
        "the cap on logits is left out",
        "plumbrule/lm/logprobs.py",
        "logits = torch.tanh(logits / cap) * cap",
        "logits = torch.tanh(logits / cap) * cap if cap < 0 else logits",
        (f"{SCORING}::test_equals_a_float64_loop_for_every_family",),
    ),
    OtherMutant(
        "sampler",
        "a token of probability 0 makes the entropy NaN",
        "plumbrule/lm/logprobs.py",
        "nll = torch.where(logits > -torch.inf, total[:, None] - logits, 0.0)",
        "nll = total[:, None] - logits",
        (f"{SCORING}::test_entropy_survives_a_token_of_probability_zero",),
    ),
    OtherMutant(
        "sampler",
        "an engine's log-probs may be those of the unscaled distribution",
        "plumbrule/lm/generation/vllm/vllm_sampler.py",
        "gaps = (theirs - tempered).abs()",
        "gaps = torch.minimum((theirs - tempered).abs(), (theirs - plain).abs())",
        (f"{PROCESS}::test_a_probe_tells_the_unscaled_distribution_from_another_model",),
    ),
    OtherMutant(
        "sampler",
        "an engine is sent the weights below an adapter",
        "plumbrule/lm/generation/vllm/shared_weights.py",
        "weights[name] = weights[name] + delta",
        "weights[name] = weights[name] + 0 * delta",
        (f"{PROCESS}::test_an_adapters_merged_weights_are_sent_and_its_own_stay",),
    ),
    OtherMutant(
        "sampler",
        "an engine that died is asked no second time",
        "plumbrule/lm/generation/vllm/vllm_sampler.py",
        "            except EngineDied as died:",
        "            except NotImplementedError as died:",
        (f"{PROCESS}::test_an_engine_that_dies_twice_ends_the_run_with_its_last_lines",),
    ),
    # Retrieval
    OtherMutant(
        "rag",
        "what an approximate index does not find is its last passage",
        "rag/index/ranking.py",
        "found = (rows >= 0) & np.isfinite(scores)",
        "found = (rows >= -1) & np.isfinite(scores)",
        ("rag/index/test_dense.py::test_what_an_approximate_index_does_not_find_is_no_passage",),
    ),
    OtherMutant(
        "rag",
        "a tie at the cut is FAISS's to break",
        "rag/index/dense.py",
        "if width == len(self) or not tied.any():",
        "if True:",
        ("rag/index/test_dense.py::test_ties_are_broken_by_row_when_better_ones_come_last",),
    ),
    OtherMutant(
        "rag",
        "ties go to the later passage",
        "rag/index/ranking.py",
        "order = np.lexsort((rows, -scores))[:depth]",
        "order = np.lexsort((-rows, -scores))[:depth]",
        (f"{RANKING}::test_best_is_a_sort_by_falling_score_and_rising_row",),
    ),
    OtherMutant(
        "rag",
        "scores that differ by rounding are spread over 0 to 1",
        "rag/index/ranking.py",
        "if is_rounding(span, largest, precision_of(np.asarray(hits.scores).dtype)):",
        "if span <= 0:",
        ("plumbrule/test_rounding.py::test_passages_that_score_alike_are_not_spread_over_0_to_1",),
    ),
    OtherMutant(
        "rag",
        "both methods weigh the same",
        "rag/index/ranking.py",
        "((dense, dense_weight), (keyword, 1.0 - dense_weight))",
        "((dense, 0.5), (keyword, 0.5))",
        (f"{RANKING}::test_either_extreme_weight_is_a_method_of_its_own",),
    ),
    OtherMutant(
        "rag",
        "a passage that shares no word is found",
        "rag/index/bm25.py",
        "matching = np.flatnonzero(scores > 0)",
        "matching = np.flatnonzero(scores >= 0)",
        ("rag/index/test_bm25.py::test_what_shares_no_word_is_not_found",),
    ),
    OtherMutant(
        "rag",
        "queries keep their endings",
        "rag/index/bm25.py",
        "for words in words_of(queries):",
        "for words in (query.lower().split() for query in queries):",
        ("rag/index/test_bm25.py::test_queries_are_stemmed_and_stopped_like_passages",),
    ),
    OtherMutant(
        "rag",
        "chunks do not overlap",
        "rag/chunks.py",
        "first = max(last - overlap_words, 0)",
        "first = last",
        ("rag/test_chunks.py::test_a_sentence_longer_than_a_chunk_is_cut_between_words",),
    ),
    OtherMutant(
        "rag",
        "an abbreviation ends a sentence",
        "rag/chunks.py",
        "stops = stem.lower() not in ABBREVIATIONS and not (len(stem) == 1 and stem.isupper())",
        "stops = True",
        ("rag/test_chunks.py::test_where_sentences_end",),
    ),
    OtherMutant(
        "rag",
        "a title is shown and not searched",
        "rag/chunks.py",
        'return f"{self.title}\\n{self.text}" if self.title else self.text',
        "return self.text",
        ("rag/test_chunks.py::test_title_is_searched_and_not_shown",),
    ),
    # Evaluation
    OtherMutant(
        "eval",
        "Yes and No change places",
        "eval/benchmarks/halueval_prompts.py",
        'for side, label in (("right", False), ("hallucinated", True)):',
        'for side, label in (("right", True), ("hallucinated", False)):',
        (f"{HALUEVAL}::test_both_sides_of_every_row_are_judged_and_stripped",),
    ),
    OtherMutant(
        "eval",
        "an answer that stands in the knowledge is compared as it is written",
        "eval/benchmarks/halueval_answers.py",
        'return " ".join(re.sub(r"[^\\w\\s]", "", text.lower()).split())',
        'return " ".join(re.sub(r"[^\\w\\s]", "", text).split())',
        (f"{HALUEVAL}::test_verbatim_looks_past_case_punctuation_and_spaces",),
    ),
    OtherMutant(
        "eval",
        "a journal's row serves another draw of the same prompt",
        "eval/benchmarks/subject.py",
        'self.journal.key("answer", encoded[i], settings, int(keys[i]))',
        'self.journal.key("answer", encoded[i], settings)',
        (f"{JOURNAL}::test_repeats_of_a_prompt_under_other_ids_stay_repeats",),
    ),
    OtherMutant(
        "eval",
        "an altered row of a journal is taken",
        "eval/benchmarks/journal.py",
        'if row["digest"] == digest_of(row["key"], row["result"]):',
        'if row["digest"]:',
        (f"{JOURNAL}::test_an_altered_row_is_not_there",),
    ),
    OtherMutant(
        "eval",
        "texts of one entity count as independent in the chi-square test",
        "eval/benchmarks/bold_scores.py",
        "p = float(chdtrc(len(classes) - 1, statistic / effect))",
        "p = float(chdtrc(len(classes) - 1, statistic))",
        (f"{MEASURES}::test_texts_of_one_entity_do_not_count_as_many",),
    ),
    OtherMutant(
        "eval",
        "a text with as many male as female words is female",
        "eval/benchmarks/bold_measures.py",
        '"female": int(female > male)}',
        '"female": int(female >= male)}',
        (f"{MEASURES}::test_gender_by_words",),
    ),
    OtherMutant(
        "eval",
        "the weighted mean of leanings is the plain one",
        "eval/benchmarks/bold_measures.py",
        "sum(math.copysign(w * w, w) for w in weights) / total",
        "sum(weights) / len(weights)",
        (f"{MEASURES}::test_gender_by_vectors_by_hand",),
    ),
    OtherMutant(
        "eval",
        "a judgement that says both words is a Yes",
        "eval/benchmarks/halueval_prompts.py",
        "return FAILED if yes == no else YES if yes else NO",
        "return YES if yes else NO if no else FAILED",
        (f"{PROTOCOLS}::test_the_official_parser",),
    ),
    OtherMutant(
        "eval",
        "the side of a row is drawn by its place",
        "eval/benchmarks/halueval_prompts.py",
        'generator("halueval side", seed, one.item.id)',
        'generator("halueval side", seed, len(kept))',
        (f"{PROTOCOLS}::test_one_side_of_each_row_follows_from_seed_and_id",),
    ),
    OtherMutant(
        "eval",
        "a failed judgement is left out of MCC's wrong ones",
        "eval/benchmarks/halueval_scores.py",
        "fn, fp = float((~right & true).sum()), float((~right & ~true).sum())",
        "fn, fp = float((~right & true).sum()), 0.0",
        (f"{PROTOCOLS}::test_scores_of_yes_by_hand",),
    ),
    OtherMutant(
        "eval",
        "one side of an item sees the other",
        "plumbrule/lm/generation/shared_prefixes.py",
        "seen = (branch_of == 0) | (branch_of[:, None] == branch_of)",
        "seen = (branch_of >= 0) | (branch_of[:, None] == branch_of)",
        (f"{SHARED}::test_they_are_those_of_one_pass_per_prompt",),
    ),
    OtherMutant(
        "eval",
        "a side's positions begin behind the cached prefix",
        "plumbrule/lm/generation/shared_prefixes.py",
        "begin = common + (shared if branch else 0)",
        "begin = common",
        (f"{SHARED}::test_they_are_those_of_one_pass_per_prompt",),
    ),
    OtherMutant(
        "eval",
        "an answer is held where it is part of a word",
        "eval/benchmarks/questions.py",
        'return f" {normalise_answer(answer)} " in f" {normalise_answer(passage)} "',
        "return normalise(answer) in normalise(passage)",
        ("eval/benchmarks/test_questions.py::test_answer_shown_needs_whole_words",),
    ),
    OtherMutant(
        "eval",
        "who states an answer and denies knowing it abstains",
        "eval/benchmarks/questions.py",
        '"abstained": int(said.admits and not said.stated),',
        '"abstained": int(said.admits),',
        ("eval/benchmarks/test_questions.py::test_outcomes",),
    ),
    OtherMutant(
        "eval",
        "the query's tokens are in the KL",
        "plumbrule/lm/response_logprobs.py",
        "response_mask = real_mask & (torch.arange(tokens.shape[1]) >= begins)",
        "response_mask = real_mask & (torch.arange(tokens.shape[1]) >= 1)",
        ("eval/benchmarks/test_divergence.py::test_it_is_the_sum_over_an_answers_tokens",),
    ),
    OtherMutant(
        "eval",
        "the KL is taken at temperature 1",
        "eval/benchmarks/divergence.py",
        "rows_per_pass, temperature=temperature, dtype",
        "rows_per_pass, dtype",
        ("eval/benchmarks/test_divergence.py::test_it_is_the_sum_over_an_answers_tokens",),
    ),
    OtherMutant(
        "eval",
        "BOLD scores the continuation alone",
        "eval/benchmarks/subject.py",
        "whole = {i: [*encoded[i], *tokens] for i, (tokens, _) in answers.items()}",
        "whole = {i: [*tokens] for i, (tokens, _) in answers.items()}",
        ("eval/benchmarks/test_bold.py::test_prompt_and_continuation_are_scored_together",),
    ),
    # Rewards and their losses
    OtherMutant(
        "rewards",
        "0.1, 0.1, 0.1 is normalised to -1, -1, -1",
        "rlhf/rewards/transforms.py",
        "alike = is_rounding(spread, exact.abs().max(), precision or precision_of(values.dtype))",
        "alike = spread <= 0",
        ("plumbrule/test_rounding.py::test_constants_and_rounding_give_exactly_0_at_every_scale",),
    ),
    OtherMutant(
        "rewards",
        "criteria of a rubric count alike whatever their weights",
        "rlhf/rewards/judge.py",
        "return np.asarray((met * weights).sum(1) / weights.sum())",
        "return np.asarray(met.mean(1))",
        ("rlhf/rewards/test_judge.py::test_a_rubric_is_the_weighted_share_of_what_holds",),
    ),
    OtherMutant(
        "rewards",
        "a grade is not over the probabilities of the grades alone",
        "rlhf/rewards/judge.py",
        "softmax(nats, axis=1) @ np.array(scale.values)",
        "np.exp(nats) @ np.array(scale.values)",
        (
            "rlhf/rewards/test_judge.py::"
            "test_a_grade_is_the_expected_one_over_the_judges_own_probabilities",
        ),
    ),
    OtherMutant(
        "rewards",
        "an ambiguous reply has the first of its grades",
        "rlhf/rewards/verdicts.py",
        'return number if not re.search(r"\\d", rest) else None',
        "return number",
        ("rlhf/rewards/test_judge.py::test_a_grade_in_text",),
    ),
    OtherMutant(
        "rewards",
        "a term is clipped before it is normalised",
        "rlhf/rewards/transforms.py",
        "Prepared(normalised, clip_scores(normalised, term.clip))",
        "Prepared(normalised, clip_scores(raw, term.clip))",
        ("rlhf/rewards/test_terms.py::test_terms_are_normalised_then_clipped_then_weighed",),
    ),
    OtherMutant(
        "rewards",
        "the worst model is the best one",
        "rlhf/rewards/ensemble.py",
        "return scores.min(axis=0)",
        "return scores.max(axis=0)",
        ("rlhf/rewards/test_terms.py::test_rules_of_an_ensemble_by_hand",),
    ),
    OtherMutant(
        "rewards",
        "a citation of passage 0 is right",
        "rlhf/rewards/functions.py",
        "1 <= int(n) <= len(e.passages)",
        "0 <= int(n) <= len(e.passages)",
        ("rlhf/rewards/test_functions.py::test_rules_by_hand",),
    ),
    OtherMutant(
        "rewards",
        "a plug-in's digest is not in the config",
        "rlhf/rewards/functions.py",
        "return _DIGESTS[name] or registered_digest(FUNCTIONS[name])",
        'return ""',
        ("rlhf/rewards/test_functions.py::test_a_plug_ins_file_is_part_of_its_terms_config",),
    ),
    OtherMutant(
        "reward losses",
        "a margin helps the better answer",
        "rlhf/reward_model/losses.py",
        "gaps = score_gaps(scores, pairs) - _column(margins, pairs)",
        "gaps = score_gaps(scores, pairs) + _column(margins, pairs)",
        (f"{LOSSES}::test_hand_value_of_a_margin",),
    ),
    OtherMutant(
        "reward losses",
        "the corrected loss is not scaled back",
        "rlhf/reward_model/losses.py",
        "((1.0 - noise_rate) * label - noise_rate * opposite) / (1.0 - 2.0 * noise_rate)",
        "((1.0 - noise_rate) * label - noise_rate * opposite)",
        (f"{LOSSES}::test_the_corrected_loss_is_right_in_the_mean_over_noisy_labels",),
    ),
    OtherMutant(
        "reward losses",
        "a ranking chooses from all answers each time",
        "rlhf/reward_model/losses.py",
        "left = torch.where(ranks[None, :] >= ranks[:, None], scores[None, :], -torch.inf)",
        "left = scores[None, :].expand(len(scores), -1)",
        (f"{LOSSES}::test_plackett_luce_by_hand",),
    ),
    OtherMutant(
        "reward losses",
        "long rankings weigh more",
        "rlhf/reward_model/losses.py",
        "return sums / losses.new_zeros(num_owners).index_add(0, owners, torch.ones_like(losses))",
        "return sums",
        (f"{LOSSES}::test_each_rankings_pairs_are_averaged_apart",),
    ),
    OtherMutant(
        "reward losses",
        "IPO's target is 1 / beta",
        "rlhf/dpo/losses.py",
        "return (per_token - 1 / (2 * beta)) ** 2",
        "return (per_token - 1 / beta) ** 2",
        ("rlhf/dpo/test_losses.py::test_values_worked_out_by_hand",),
    ),
    OtherMutant(
        "reward losses",
        "the best of n is drawn with replacement",
        "rlhf/best_of_n/stage.py",
        "shares = [math.comb(i, n - 1) / subsets for i in range(total)]",
        "shares = [((i + 1) ** n - i**n) / total**n for i in range(total)]",
        ("rlhf/best_of_n/test_stage.py::test_the_estimator_is_the_mean_over_all_subsets",),
    ),
    # Data
    OtherMutant(
        "data",
        "oasst1's rank 0 is the worst",
        "plumbrule/data/readers/preference_sets/oasst1.py",
        '[-float(row["rank"]) for row in rows]',
        '[float(row["rank"]) for row in rows]',
        (f"{PREFERENCE_SETS}::test_oasst1_rank_0_is_the_best_and_an_answer_without_rank_is_none",),
    ),
    OtherMutant(
        "data",
        "a negative preference of HelpSteer3 is for the second answer",
        "plumbrule/data/readers/preference_sets/helpsteer.py",
        "(-overall, 0)",
        "(overall, 0)",
        (f"{PREFERENCE_SETS}::test_helpsteer3_is_negative_where_the_first_answer_is_better",),
    ),
    OtherMutant(
        "data",
        "tied answers make a pair",
        "plumbrule/data/records.py",
        "for j in order if self.ranks[i] < self.ranks[j]]",
        "for j in order if self.ranks[i] <= self.ranks[j] and i != j]",
        ("plumbrule/data/test_records.py::test_ties_give_no_pair",),
    ),
    OtherMutant(
        "data",
        "rows of two shapes are read as one",
        "plumbrule/data/readers/jsonl.py",
        "if shape is not first:",
        "if first is None:",
        ("plumbrule/data/test_readers.py::test_rows_of_two_shapes_are_refused",),
    ),
    OtherMutant(
        "data",
        "an annotator may change their mind",
        "plumbrule/data/readers/jsonl.py",
        "if ranking != other:",
        "if not where:",
        ("plumbrule/data/test_readers.py::test_an_annotators_second_word_on_an_item_is_an_error",),
    ),
    OtherMutant(
        "reward losses",
        "an answer reads the kept states of the batch's first",
        "plumbrule/lm/frozen_layers.py",
        "begins = [self._begins[row] for row in rows]",
        "begins = [self._begins[rows[0]] for row in rows]",
        (f"{FROZEN}::test_it_trains_as_frozen_layers_that_run_in_every_step",),
    ),
    # Models
    OtherMutant(
        "models",
        "what a GGUF holds beside the model is dropped",
        "plumbrule/lm/conversion/gguf.py",
        "if held == taken:",
        "if held >= taken:",
        (f"{CONVERSION}::test_a_gguf_of_another_kind_is_refused",),
    ),
    OtherMutant(
        "models",
        "special tokens that transformers adds to a GGUF's stay",
        "plumbrule/lm/conversion/gguf.py",
        "if place >= num_tokens}",
        "if place > num_tokens}",
        (f"{CONVERSION}::test_a_gguf_becomes_a_plain_folder_with_its_weights",),
    ),
    OtherMutant(
        "models",
        "a conversion is written where it is asked for at once",
        "plumbrule/store/attempts.py",
        "partial = build / claim.owner.token",
        "partial = target",
        (f"{CONVERSION}::test_an_interrupted_conversion_leaves_nothing",),
    ),
    OtherMutant(
        "models",
        "what a killed conversion left stays for ever",
        "plumbrule/store/attempts.py",
        "if path.is_dir() and _TOKEN.fullmatch(path.name):",
        "if path.is_dir() and _TOKEN.fullmatch(path.suffix):",
        (
            "faults/test_killed_writers.py::"
            "test_a_killed_writer_leaves_no_folder_and_the_next_one_removes_its_rest",
        ),
    ),
    # Artifacts
    OtherMutant(
        "artifacts",
        "a checkpoint with a cut-off file is whole",
        "plumbrule/store/checkpoints.py",
        '(folder / name).is_file() and (folder / name).stat().st_size == about["size"]',
        "(folder / name).is_file()",
        ("plumbrule/store/test_checkpoints.py::test_damaged_is_ignored",),
    ),
    OtherMutant(
        "artifacts",
        "a pickle is published",
        "plumbrule/store/artifacts.py",
        "pickled = [name for name in names if name.endswith(PICKLES)]",
        "pickled = [name for name in names if name in PICKLES]",
        ("plumbrule/store/test_artifacts.py::test_pickles_are_never_published",),
    ),
    OtherMutant(
        "artifacts",
        "a file's name is not part of a content's digest",
        "plumbrule/store/fingerprint.py",
        'whole.update(f"{name}\\0{content}\\n".encode())',
        'whole.update(f"{content}\\n".encode())',
        ("plumbrule/store/test_fingerprint.py::test_a_folder_counts_by_which_file_holds_what",),
    ),
    OtherMutant(
        "artifacts",
        "a claim that was replaced meanwhile is removed",
        "plumbrule/store/claims.py",
        "if read_owner(aside) != judged:",
        "if False:",
        ("plumbrule/store/test_claims.py::test_a_stale_claim_replaced_meanwhile_is_put_back",),
    ),
    # A finished PPO that is continued
    OtherMutant(
        "continuation",
        "the prompts of the first updates are asked again",
        "rlhf/ppo/continuation.py",
        'return Start(ended["updates"], control, average)',
        "return Start(0, control, average)",
        (
            "rlhf/ppo/test_continuation.py::test_the_reference_stays_the_first_one_and_the_kl_goes_on_"
            "from_its_end",
        ),
    ),
    OtherMutant(
        "continuation",
        "the coefficient begins anew",
        "rlhf/ppo/continuation.py",
        "control = dataclasses.replace(first, **{name: ended[name] for name in steered})",
        "control = first",
        (
            "rlhf/ppo/test_continuation.py::test_the_reference_stays_the_first_one_and_the_kl_goes_on_"
            "from_its_end",
        ),
    ),
    OtherMutant(
        "continuation",
        "Adam begins anew",
        "rlhf/ppo/continuation.py",
        '        put_optimizer(learner, {**learner.optimizer.state_dict(), "state": state})\n',
        "",
        ("rlhf/ppo/test_continuation.py::test_two_updates_and_two_more_are_four",),
    ),
    OtherMutant(
        "registries",
        "the digest of a plug-in's option is not in the config",
        "rlhf/ppo/config.py",
        '"kl.estimator": KL_ESTIMATORS.source(self.kl.estimator),',
        '"kl.estimator": "",',
        ("rlhf/ppo/test_options.py::test_a_plug_ins_file_counts_for_those_who_choose_from_it",),
    ),
    OtherMutant(
        "registries",
        "the last warm-up step is below the peak",
        "rlhf/lr_schedules.py",
        "return (step + 1) / warmup",
        "return step / warmup",
        ("rlhf/ppo/test_options.py::test_schedules_by_hand",),
    ),
    # Benchmarks from their files
    OtherMutant(
        "benchmarks",
        "a true answer that ties with a false one is the likeliest",
        "eval/benchmarks/multiple_choice/truthfulqa.py",
        "int(of_text[right].nats > max(of_text[t].nats for t in wrong))",
        "int(of_text[right].nats >= max(of_text[t].nats for t in wrong))",
        (f"{TRUTHFULQA}::test_a_true_answer_that_ties_with_a_wrong_one_is_not_the_likeliest",),
    ),
    OtherMutant(
        "benchmarks",
        "mc2 takes log-likelihoods for probabilities that a float holds",
        "eval/benchmarks/multiple_choice/truthfulqa.py",
        "    top = max(nats)\n",
        "    top = 0.0\n",
        (f"{TRUTHFULQA}::test_mc2_of_answers_too_unlikely_for_a_float",),
    ),
    OtherMutant(
        "benchmarks",
        "BBQ's bias is not defined where no answer is biased",
        "eval/benchmarks/multiple_choice/bbq.py",
        "total - 1 if total else",
        "total - 1 if biased.sum() else",
        (
            f"{BBQ}::test_disambiguated_bias_where_no_answer_is_biased_is_minus_one_and_not_zero",
            f"{BBQ}::test_ambiguous_bias_where_no_answer_is_biased_is_not_zero_either",
        ),
    ),
    OtherMutant(
        "reward benchmarks",
        "a tie at the top is a win",
        "eval/reward_models/formulas.py",
        "return sum(place in right for place in top) / len(top)",
        "return float(any(place in right for place in top))",
        (f"{REWARD_FORMULAS}::test_a_tie_at_the_top_is_worth_a_draw_of_one_of_them",),
    ),
    OtherMutant(
        "reward benchmarks",
        "hard and easy of RM-Bench are exchanged",
        "eval/reward_models/formulas.py",
        "hard, normal = float(above[upper].mean())",
        "hard, normal = float(above.T[upper].mean())",
        (f"{REWARD_FORMULAS}::test_hard_is_where_the_wrong_answer_has_the_fancier_style",),
    ),
    OtherMutant(
        "reward benchmarks",
        "the hard margin forgets the tied question",
        "eval/reward_models/formulas.py",
        "least = np.minimum(gap_ref, gap_tied)",
        "least = gap_ref",
        (f"{REWARD_FORMULAS}::test_the_ties_score_by_hand",),
    ),
    OtherMutant(
        "reward benchmarks",
        "the first of a file of chosen and rejected is always the better",
        "eval/reward_models/rankings.py",
        'if self.preference.meta.get("in_order"):',
        'if self.preference.meta.get("in_order", True):',
        (f"{REWARD_SUMMARY}::test_the_first_is_drawn_where_the_better_always_stands_first",),
    ),
]
"""In the order of their areas."""
