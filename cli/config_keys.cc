#include "cli/config_keys.h"

#include <sstream>

namespace trireme {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();
constexpr double kMany = 1e12;  // more of anything countable is a slip of the finger

ConfigKey Text(std::string_view path, std::string_view fallback, std::string_view meaning,
               std::string_view choices = {}, std::string_view later = {}) {
  return {path, fallback, "", meaning, -kNoLimit, kNoLimit, false, choices, later};
}

ConfigKey Count(std::string_view path, std::string_view fallback, std::string_view unit,
                double least, std::string_view meaning, double most = kMany) {
  return {path, fallback, unit, meaning, least, most};
}

ConfigKey Real(std::string_view path, std::string_view fallback, double least, double most,
               bool above_least, std::string_view meaning) {
  return {path, fallback, "", meaning, least, most, above_least};
}

ConfigKey Flag(std::string_view path, std::string_view fallback, std::string_view meaning) {
  return {path, fallback, "", meaning};
}

std::vector<ConfigKey> ModelKeys() {
  constexpr std::string_view kFamily = "(the family's)";
  return {
      Text("model.from", "", "MODEL to continue from or to fine-tune; its shape is taken over"),
      Text("model.preset", "",
           "a named shape, see trireme config --presets; other keys override it"),
      Text("model.family", "(needed)", "architecture", "gpt2 llama",
           "gpt_neo gpt_neox qwen2 qwen3 gemma3 mixtral qwen3_moe bert marian"),
      Count("model.vocab_size", kFamily, "tokens", 1, "rows of the embedding"),
      Count("model.hidden_size", kFamily, "", 1, "width of the residual stream (n_embd)"),
      Count("model.intermediate_size", kFamily, "", 1, "width of the feed-forward part (n_inner)"),
      Count("model.num_hidden_layers", kFamily, "layers", 1, "number of blocks (n_layer)"),
      Count("model.num_attention_heads", kFamily, "heads", 1, "query heads (n_head)"),
      Count("model.num_key_value_heads", kFamily, "heads", 1,
            "key and value heads; fewer than query heads: grouped-query attention"),
      Count("model.head_dim", "(hidden_size / heads)", "", 1, "width of a head"),
      Count("model.max_position_embeddings", kFamily, "tokens", 1,
            "longest sequence (n_positions)"),
      Real("model.rms_norm_eps", kFamily, 0, 1, true, "epsilon of the RMS norms (llama)"),
      Real("model.layer_norm_epsilon", kFamily, 0, 1, true, "epsilon of the layer norms (gpt2)"),
      Real("model.rope_theta", kFamily, 0, kNoLimit, true,
           "base of the rotary frequencies (llama)"),
      Text("model.hidden_act", kFamily, "activation of the feed-forward part"),
      Flag("model.tie_word_embeddings", kFamily, "the head shares the embedding's weights"),
      Flag("model.attention_bias", kFamily, "biases in the attention's products"),
      Flag("model.mlp_bias", kFamily, "biases in the feed-forward part's products"),
      Real("model.initializer_range", kFamily, 0, 100, false,
           "standard deviation of initial weights"),
      Count("model.bos_token_id", kFamily, "token", -1, "begin of text; -1: none"),
      Count("model.eos_token_id", kFamily, "token", -1, "end of text; -1: none"),
      Count("model.pad_token_id", kFamily, "token", -1, "padding; -1: none"),
      Text("model.rope_scaling.rope_type", "(default)", "how rotary frequencies are stretched",
           "default linear llama3", "yarn dynamic longrope"),
      Real("model.rope_scaling.factor", "(1)", 0, kNoLimit, false, "by how much"),
      Real("model.rope_scaling.low_freq_factor", "(1 for llama3)", 0, kNoLimit, false,
           "llama3: below this the full factor"),
      Real("model.rope_scaling.high_freq_factor", "(4 for llama3)", 0, kNoLimit, false,
           "llama3: above this none"),
      Count("model.rope_scaling.original_max_position_embeddings", "(all positions)", "tokens", 0,
            "llama3: length before stretching"),
  };
}

std::vector<ConfigKey> DataKeys() {
  return {
      Text("data.train.path", "(needed)", "TOKENS made by trireme pack, with or without .bin"),
      Real("data.train.weight", "1.0", 0, kNoLimit, true,
           "share of the samples from this source, relative to the others"),
      Text("data.validation.path", "(none)", "TOKENS that training never sees"),
      Real("data.validation.weight", "1.0", 0, kNoLimit, true,
           "unused: validation reads every source in turn"),
      Count("data.sequence_length", "(1024, or all positions)", "tokens", 1, "length of a sample"),
      Flag("data.shuffle", "true",
           "draw samples in a random order that the seed decides; false: in order"),
      Flag("data.isolate_documents", "false",
           "attention and positions start again at each document"),
      Text("data.tokenizer", "", "TOKENIZER of the data; empty: the one named beside the tokens"),
      Count("batch.sequences", "32", "sequences", 1,
            "global batch; does not change with the number of workers"),
      Count("batch.microbatch_sequences", "(4, or what divides)", "sequences", 1,
            "sequences that go through the model at once"),
      Text("batch.sum_leaves", "auto",
           "parts of the batch whose gradients are summed in a fixed tree; bounds the data width"),
  };
}

std::vector<ConfigKey> OptimizerKeys() {
  return {
      Text("optimizer.name", "adamw", "update rule", "adamw", "adam sgd adafactor lion muon"),
      Real("optimizer.lr", "0.001", 0, kNoLimit, true, "peak learning rate"),
      Real("optimizer.betas", "[0.9, 0.95]", 0, 1, false, "decay of the first and second moment"),
      Real("optimizer.eps", "1e-8", 0, kNoLimit, true, "added to the root of the second moment"),
      Real("optimizer.weight_decay", "0.1", 0, kNoLimit, false,
           "decoupled, of tensors with two or more dimensions"),
      Real("optimizer.clip_norm", "1.0", 0, kNoLimit, false,
           "largest global gradient norm; 0: no clipping"),
      Text("lr_schedule.name", "cosine", "learning rate after the warm-up",
           "constant linear cosine cosine_restarts inverse_sqrt wsd step polynomial"),
      Count("lr_schedule.warmup_steps", "(steps / 10, at most 20)", "steps", 0,
            "linear rise to the peak"),
      Count("lr_schedule.steps", "200", "steps", 1, "length of the run"),
      Real("lr_schedule.final_lr_ratio", "(0.1; linear and wsd: 0)", 0, 1, false,
           "last learning rate over the peak"),
      Count("lr_schedule.decay_start", "(4/5 of the steps)", "steps", 0,
            "wsd: first step of the decay"),
      Count("lr_schedule.step_size", "(steps / 4)", "steps", 1, "step: steps between drops"),
      Real("lr_schedule.gamma", "(0.5)", 0, 1, true, "step: factor of a drop"),
      Count("lr_schedule.restart_period", "(steps / 5)", "steps", 1,
            "cosine_restarts: length of the first cycle"),
      Real("lr_schedule.restart_mult", "(2)", 1, kNoLimit, false,
           "cosine_restarts: growth of the cycles"),
      Real("lr_schedule.power", "(2)", 0, kNoLimit, true, "polynomial: exponent"),
  };
}

std::vector<ConfigKey> LayoutKeys() {
  return {
      Text("precision.compute", "float32", "of products and activations; sums stay float32",
           "float32 bfloat16", "float16 float8"),
      Text("precision.master", "float32",
           "of the weights that the optimizer keeps; bfloat16, where compute is, rounds them at "
           "random and saves 8 bytes a weight",
           "float32 bfloat16"),
      Text("precision.reduce", "float32", "of gradients on the wires", "float32",
           "bfloat16 float16"),
      Count("layout.data", "1", "ranks", 1, "replicas, each with its share of the batch"),
      Count("layout.tensor", "1", "ranks", 1, "ranks that share every matrix product"),
      Count("layout.pipeline", "1", "ranks", 1, "stages of consecutive blocks"),
      Count("layout.context", "1", "ranks", 1,
            "ranks that share a sequence; more than 1: not built yet"),
      Count("layout.expert", "1", "ranks", 1,
            "ranks that share the experts; more than 1: not built yet"),
      Count("layout.zero", "1", "", 0,
            "0: replicas hold all; 1: each holds its shard of the optimizer's state; 2 and 3: not "
            "built yet"),
      Text("layout.pipeline_schedule", "1f1b", "gpipe, 1f1b or a CSV file of actions", "gpipe 1f1b",
           "interleaved zero_bubble zb1p zbv dualpipe_v"),
      Text("layout.recompute", "none", "activations that the backward pass computes again",
           "none selective full"),
  };
}

std::vector<ConfigKey> RunKeys() {
  return {
      Text("checkpoint.store", "(run.dir/checkpoints)", "STORE of the checkpoints"),
      Count("checkpoint.every_steps", "50", "steps", 0,
            "between checkpoints; 0: only after the last step"),
      Count("checkpoint.keep", "3", "checkpoints", 1, "older ones are deleted"),
      Count("recovery.spares", "0", "ranks", 0,
            "ranks started besides and parked; that they step in is not built yet"),
      Count("recovery.redundancy", "1", "nodes", 0,
            "losses at once that no step is lost to; not built yet"),
      Count("recovery.lease_ms", "300", "ms", 10, "a worker silent for three of these is dead"),
      Count("validation.every_steps", "50", "steps", 0, "between validations; 0: none"),
      Count("validation.batches", "20", "batches", 1, "global batches a validation reads"),
      Text("device", "auto", "where the workers compute", "auto cpu cuda", ""),
      Count("threads", "0", "threads", 0,
            "of a worker; 0: this host's cores shared among its workers", 4096),
  };
}

}  // namespace

const std::vector<ConfigKey>& ConfigKeys() {
  static const auto* keys = [] {
    auto* all = new std::vector<ConfigKey>{
        Text("run.dir", "(runs/NAME of the file)", "folder of everything the run leaves"),
        Count("run.seed", "1234", "", 0, "of initial weights and of the order of samples"),
    };
    all->back().most = kNoLimit;
    const auto append = [all](const std::vector<ConfigKey>& more) {
      all->insert(all->end(), more.begin(), more.end());
    };
    append(ModelKeys());
    all->push_back(Text("objective", "causal", "what is learned", "causal",
                        "masked sequence_to_sequence classification question_answering "
                        "instruction preference"));
    append(DataKeys());
    append(OptimizerKeys());
    append(LayoutKeys());
    append(RunKeys());
    return all;
  }();
  return *keys;
}

const ConfigKey* FindConfigKey(std::string_view path) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

std::vector<std::string> SplitNames(std::string_view names) {
  std::istringstream in{std::string(names)};
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

}  // namespace trireme
