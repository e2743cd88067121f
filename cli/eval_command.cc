// trireme eval: perplexity, and the baselines to hold it against.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/run_options.h"
#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "storage/checkpoint_location.h"
#include "storage/token_file.h"
#include "worker/evaluation/perplexity.h"
#include "worker/model/weight_source.h"
#include "worker/text/text_source.h"
#include "worker/text/tokenizer_files.h"

namespace trireme {
namespace {

struct EvalCommand {
  ModelOptions model;
  std::vector<std::string> tasks;
  std::string field = "text";
  int64_t length = 0, limit = 0;
  bool bos = false, json = false;
};

// A stream with what keeps it alive.
struct OpenedStream {
  TokenStream stream;
  std::shared_ptr<TokenFile> file;
  std::shared_ptr<std::vector<int32_t>> ids;
};

bool IsTokenFile(const std::string& name) {
  const std::string path = WithoutFileScheme(name);
  return std::filesystem::exists(path + ".idx") || std::filesystem::exists(path + ".bin") ||
         WithoutTokensEnding(path) != path;
}

Result<OpenedStream> OpenTokens(const std::string& path) {
  OpenedStream opened;
  ASSIGN_OR_RETURN(opened.file, TokenFile::Open(path));
  opened.stream.tokens = opened.file->tokens();
  opened.stream.read = [file = opened.file](int64_t begin, std::span<int32_t> out) {
    file->Read(begin, static_cast<int64_t>(out.size()), out.data());
  };
  return opened;
}

// One stream: documents joined by the end-of-text token, a single file without.
Result<OpenedStream> OpenText(const std::string& path, const std::string& field,
                              const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    return InvalidArgumentError("the model brings no tokenizer: name one with --tokenizer");
  }
  ASSIGN_OR_RETURN(const auto source, TextSource::Open({path}, {.field = field}));
  OpenedStream opened;
  opened.ids = std::make_shared<std::vector<int32_t>>();
  Document document;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, source->Next(&document));
    if (!more) break;
    RETURN_IF_ERROR(CheckUtf8(document));
    if (document.text.empty()) continue;  // as pack does
    if (!opened.ids->empty()) {
      if (!tokenizer->end_of_text()) {
        return InvalidArgumentError(StrCat(path,
                                           ": several documents, but the tokenizer has no "
                                           "end-of-text token to join them"));
      }
      opened.ids->push_back(*tokenizer->end_of_text());
    }
    tokenizer->Encode(document.text, opened.ids.get());
  }
  opened.stream.tokens = static_cast<int64_t>(opened.ids->size());
  opened.stream.read = [ids = opened.ids](int64_t begin, std::span<int32_t> out) {
    std::copy_n(ids->begin() + begin, out.size(), out.begin());
  };
  return opened;
}

// The tokenizer's, or the model's own where there is no tokenizer.
Result<int32_t> BosOf(const Tokenizer* tokenizer, const proto::ModelConfig& model) {
  if (tokenizer == nullptr) {
    if (model.bos_token_id() >= 0) return static_cast<int32_t>(model.bos_token_id());
    return InvalidArgumentError(
        "--bos: the model has neither a tokenizer nor a bos_token_id: name one with --tokenizer");
  }
  if (tokenizer->bos()) return *tokenizer->bos();
  return InvalidArgumentError("--bos: the tokenizer has no BOS token");
}

Json OrNull(const auto& value) { return value ? Json(*value) : Json(nullptr); }

Result<Json> RunPerplexity(const EvalCommand& command, const std::string& path) {
  ASSIGN_OR_RETURN(const auto model, OpenModel("eval", command.model));
  ASSIGN_OR_RETURN(auto tokenizer, OpenTokenizer(command.model, *model));
  ASSIGN_OR_RETURN(OpenedStream opened, IsTokenFile(path)
                                            ? OpenTokens(path)
                                            : OpenText(path, command.field, tokenizer.get()));
  if (opened.file != nullptr) {
    const TokenFileInfo& info = opened.file->info();
    if (info.vocab_size > model->shape().vocab_size) {
      return InvalidArgumentError(StrCat(path, ": its tokenizer has ", info.vocab_size,
                                         " tokens, but the model's vocabulary has ",
                                         model->shape().vocab_size));
    }
    if (tokenizer != nullptr) {
      const ModelOptions& named = command.model;
      RETURN_IF_ERROR(opened.file->CheckTokenizer(
          tokenizer->hash(), named.tokenizer.empty() ? named.model : named.tokenizer));
    } else if (!info.tokenizer_path.empty()) {
      ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(info.tokenizer_path));
    }
  }
  PerplexityOptions options;
  options.length = command.length > 0 ? command.length : model->source().training_length();
  if (options.length > model->shape().max_positions) {
    return InvalidArgumentError(StrCat("--length ", options.length, ": the model has ",
                                       model->shape().max_positions, " positions"));
  }
  options.windows_max = command.limit;
  if (command.bos) {
    ASSIGN_OR_RETURN(options.bos, BosOf(tokenizer.get(), model->source().config()));
  }
  if (isatty(STDERR_FILENO)) {
    options.progress = [](int64_t done, int64_t all) {
      std::fprintf(stderr, "\reval  %lld of %lld windows%s", static_cast<long long>(done),
                   static_cast<long long>(all), done == all ? "\r\033[K" : "");
    };
  }
  const auto result = EvaluatePerplexity(model.get(), opened.stream, tokenizer.get(), options);
  if (!result.ok()) return result.status().WithContext(path);
  if (!std::isfinite(result->nll_sum)) {
    return DataLossError(StrCat(command.model.model, ": the loss on ", path, " is not finite"));
  }
  Json json;
  json["task"] = "perplexity=" + path;
  json["nll_sum"] = result->nll_sum;
  json["tokens"] = result->tokens;
  json["bytes"] = OrNull(result->bytes);
  json["perplexity"] = result->Perplexity();
  json["bits_per_byte"] = OrNull(result->BitsPerByte());
  return json;
}

// One more than the largest id.
Result<int64_t> SmallestVocabulary(const TokenFile& file) {
  std::vector<int32_t> ids(1 << 16);
  int64_t vocab = 0;
  for (int64_t begin = 0; begin < file.tokens(); begin += static_cast<int64_t>(ids.size())) {
    ids.resize(static_cast<size_t>(std::min<int64_t>(1 << 16, file.tokens() - begin)));
    file.Read(begin, static_cast<int64_t>(ids.size()), ids.data());
    for (const int32_t id : ids) vocab = std::max<int64_t>(vocab, int64_t{id} + 1);
  }
  if (vocab > kVocabularySizeMax) {
    return DataLossError(StrCat(file.path(), ": an id of ", vocab - 1, ": expected at most ",
                                kVocabularySizeMax - 1, ", as in the largest vocabularies"));
  }
  return vocab;
}

// Of both files. Where one does not tell: what was named tells, else the other file, else the ids.
Result<int64_t> NgramVocabulary(const ModelOptions& named, const TokenFile& train,
                                const TokenFile& validation) {
  const int64_t a = train.info().vocab_size, b = validation.info().vocab_size;
  if (a > 0 && b > 0) return std::max(a, b);
  if (!named.tokenizer.empty()) {
    ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(named.tokenizer));
    for (const TokenFile* file : {&train, &validation}) {
      RETURN_IF_ERROR(file->CheckTokenizer(tokenizer->hash(), named.tokenizer));
    }
    return tokenizer->vocab_size();
  }
  if (!named.model.empty()) {
    ASSIGN_OR_RETURN(const auto source, WeightSource::Open(named.model));
    return source->config().vocab_size();
  }
  if (a > 0 || b > 0) return std::max(a, b);
  ASSIGN_OR_RETURN(const int64_t of_train, SmallestVocabulary(train));
  ASSIGN_OR_RETURN(const int64_t of_validation, SmallestVocabulary(validation));
  return std::max(of_train, of_validation);
}

Result<Json> RunNgram(const EvalCommand& command, const std::string& value) {
  const size_t colon = value.find(':');
  ASSIGN_OR_RETURN(const OpenedStream train, OpenTokens(value.substr(0, colon)));
  ASSIGN_OR_RETURN(const OpenedStream validation, OpenTokens(value.substr(colon + 1)));
  RETURN_IF_ERROR(
      validation.file->CheckTokenizer(train.file->info().tokenizer_hash, train.file->path()));
  ASSIGN_OR_RETURN(const int64_t vocab,
                   NgramVocabulary(command.model, *train.file, *validation.file));
  ASSIGN_OR_RETURN(const NgramResult result,
                   EvaluateNgrams(train.stream, validation.stream, vocab));
  Json json;
  json["task"] = "ngram=" + value;
  json["unigram_perplexity"] = result.unigram_perplexity;
  json["bigram_perplexity"] = result.bigram_perplexity;
  json["bigram_weight"] = result.bigram_weight;
  json["tokens"] = result.tokens;
  return json;
}

void Print(const Json& report) {
  std::cout << report["task"].get<std::string>() << "\n";
  for (const auto& [key, value] : report.items()) {
    if (key == "task" || value.is_null()) continue;
    std::cout << "  " << key << std::string(20 - std::min<size_t>(19, key.size()), ' ');
    if (value.is_number_integer()) {
      std::cout << value << "\n";
    } else {
      char text[40];
      std::snprintf(text, sizeof(text), "%.4f", value.get<double>());
      std::cout << text << "\n";
    }
  }
}

struct Task {
  std::string name, value;
};

// Before anything is read: a mistake in the last task is not to cost the work of the first.
Result<std::vector<Task>> ParseTasks(const EvalCommand& command) {
  std::vector<Task> tasks;
  for (const std::string& text : command.tasks) {
    const size_t equals = text.find('=');
    Task task{text.substr(0, equals), equals == std::string::npos ? "" : text.substr(equals + 1)};
    if ((task.name != "perplexity" && task.name != "ngram") || task.value.empty()) {
      return InvalidArgumentError(
          StrCat("--task ", text, ": expected perplexity=TOKENS|TEXT or ngram=TRAIN:VALIDATION"));
    }
    if (task.name == "ngram" && task.value.find(':') == std::string::npos) {
      return InvalidArgumentError(
          StrCat("--task ", text, ": expected ngram=TRAIN:VALIDATION, both token files"));
    }
    if (task.name == "perplexity" && command.model.model.empty()) {
      return InvalidArgumentError("--task perplexity needs --model");
    }
    tasks.push_back(std::move(task));
  }
  return tasks;
}

Status CheckOptions(const EvalCommand& command) {
  for (const auto& [name, value] :
       {std::pair{"length", command.length}, std::pair{"limit", command.limit}}) {
    if (value >= 0) continue;
    return InvalidArgumentError(StrCat("--", name, " ", value, ": expected 0 or more"));
  }
  return OkStatus();
}

Status RunEval(const EvalCommand& command) {
  RETURN_IF_ERROR(CheckOptions(command));
  ASSIGN_OR_RETURN(const std::vector<Task> tasks, ParseTasks(command));
  Json reports = Json::array();
  for (const auto& [name, value] : tasks) {
    ASSIGN_OR_RETURN(Json report,
                     name == "ngram" ? RunNgram(command, value) : RunPerplexity(command, value));
    if (!command.json) Print(report);
    reports.push_back(std::move(report));
  }
  if (command.json) {
    std::cout << DumpJson(reports.size() == 1 ? reports[0] : Json{{"tasks", reports}}) << "\n";
  }
  return OkStatus();
}

std::function<Status()> SetUpEval(CommandLine& line) {
  auto command = std::make_shared<EvalCommand>();
  AddModelOptions(line, &command->model);
  line.Find("--model").Required(false);
  line.Add("--task", command->tasks, "perplexity=TOKENS|TEXT or ngram=TRAIN:VALIDATION; repeatable")
      .Required()
      .OneValueEach();
  line.Add("--length", command->length, "tokens a window; 0: the model's training length");
  line.Flag("--bos", command->bos, "feed BOS at the start of each window");
  line.Add("--limit", command->limit, "windows; 0: all");
  line.Add("--field", command->field, "of jsonl and csv texts").ShowDefault();
  AddJsonOption(line, &command->json);
  return [command] { return RunEval(*command); };
}

const RegisterCommand kEvalCommand({"eval", "perplexity of a model, and n-gram baselines",
                                    "trireme eval --model runs/demo --task "
                                    "perplexity=data/corpus_validation",
                                    SetUpEval});

}  // namespace
}  // namespace trireme
