// trireme tokenizer: vocabularies trained, looked at, and used on stdin.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <memory>
#include <thread>

#include "cli/command.h"
#include "cli/id_list.h"
#include "cli/text_progress.h"
#include "cluster/base/json.h"
#include "worker/text/bpe_trainer.h"
#include "worker/text/pretokenize.h"
#include "worker/text/text_source.h"
#include "worker/text/tokenizer.h"
#include "worker/text/word_counter.h"

namespace trireme {
namespace {

struct TokenizerTrainOptions {
  std::vector<std::string> text;
  std::string out, type = "bpe", pattern = "cl100k", field = "text";
  std::vector<std::string> special = {"<|endoftext|>"};
  int64_t vocab_size = 8192, min_frequency = 0;
  int threads = 0;
  bool json = false;
};

struct TokenizerUseOptions {
  std::string tokenizer, pattern;
  std::vector<int32_t> ids;
  bool special = false, jsonl = false, json = false;
};

Result<int64_t> CountWords(const TokenizerTrainOptions& options, WordCounter* counter) {
  ASSIGN_OR_RETURN(const auto source, TextSource::Open(options.text, {.field = options.field}));
  TextProgress progress("tokenizer train");
  const auto count = [&]() -> Result<int64_t> {
    Document document;
    for (int64_t documents = 0;; ++documents) {
      ASSIGN_OR_RETURN(const bool more, source->Next(&document));
      if (!more) return documents;
      RETURN_IF_ERROR(CheckUtf8(document));
      counter->Add(document.text);
      progress.Update(source->bytes_read(), source->bytes());
    }
  };
  auto documents = count();
  progress.Finish();
  return documents;
}

// Of options that are checked nowhere else.
Status CheckTrain(const TokenizerTrainOptions& options) {
  if (options.min_frequency < 0) {
    return InvalidArgumentError(
        StrCat("--min-frequency ", options.min_frequency, ": expected 0 or more"));
  }
  for (auto it = options.special.begin(); it != options.special.end(); ++it) {
    if (std::find(options.special.begin(), it, *it) == it) continue;
    return InvalidArgumentError(StrCat("--special ", *it, ": given twice"));
  }
  return CheckPatternName(options.pattern);
}

Status RunTokenizerTrain(const TokenizerTrainOptions& options) {
  if (options.type != "bpe") {
    return NotBuiltError(StrCat("--type ", options.type, ": not built yet (bpe is)"));
  }
  RETURN_IF_ERROR(CheckTrain(options));
  BpeTrainOptions train;
  train.vocab_size = options.vocab_size;
  train.min_frequency = options.min_frequency;
  train.special_tokens = options.special;
  train.pattern = PatternByName(options.pattern);
  RETURN_IF_ERROR(CheckBpeTrainOptions(train));
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = options.threads > 0 ? options.threads : std::max(1, cores);
  ASSIGN_OR_RETURN(const auto counter, WordCounter::Create(train.pattern, threads));
  ASSIGN_OR_RETURN(const int64_t documents, CountWords(options, counter.get()));
  const WordTable words = counter->Finish();
  if (words.size() == 0) return DataLossError("the corpus holds no text to learn from");
  ASSIGN_OR_RETURN(BpeDefinition definition, TrainBpe(words, train));
  const auto merges = static_cast<int64_t>(definition.merges.size());
  ASSIGN_OR_RETURN(const auto tokenizer, MakeBpeTokenizer(std::move(definition), options.out));
  RETURN_IF_ERROR(tokenizer->Save(options.out));
  if (options.json) {
    const Json report = {{"out", options.out},
                         {"documents", documents},
                         {"distinct_words", words.size()},
                         {"vocab_size", tokenizer->vocab_size()},
                         {"merges", merges},
                         {"hash", tokenizer->hash()}};
    std::cout << DumpJson(report) << "\n";
    return OkStatus();
  }
  std::printf("%s: %lld tokens (%lld merges) from %lld documents, %zu distinct words\n",
              options.out.c_str(), static_cast<long long>(tokenizer->vocab_size()),
              static_cast<long long>(merges), static_cast<long long>(documents), words.size());
  if (tokenizer->vocab_size() < options.vocab_size) {
    std::printf("fewer than the %lld asked for: the corpus has no more pairs to merge\n",
                static_cast<long long>(options.vocab_size));
  }
  return OkStatus();
}

// Calls line(text) for each line of stdin; what it writes goes to stdout, with a line break where
// the input has one. Of jsonl blank lines are passed over.
Status ForEachLine(bool jsonl,
                   const std::function<Status(const std::string& line, std::string* out)>& work) {
  std::ios::sync_with_stdio(false);
  std::string line, out;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const bool line_break = !std::cin.eof();
    if (jsonl && line.find_first_not_of(" \t\r") == std::string::npos) continue;
    out.clear();
    const Status status = work(line, &out);
    if (!status.ok()) {
      std::cout.flush();
      return status.WithContext(StrCat("stdin:", number));
    }
    if (line_break) out += '\n';
    std::cout << out;
  }
  std::cout.flush();
  if (!std::cout) return StorageError("stdout cannot be written");
  return OkStatus();
}

void AppendIds(const std::vector<int32_t>& ids, const char* separator, std::string* out) {
  char digits[16];
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) *out += separator;
    out->append(digits, std::to_chars(digits, digits + sizeof(digits), ids[i]).ptr);
  }
}

Status NotOfForm(const std::string& line, const char* form) {
  const std::string utf8 = Utf8ProblemOfJson(line);
  return DataLossError(utf8.empty() ? StrCat("expected ", form) : utf8);
}

Status RunEncode(const TokenizerUseOptions& options) {
  ASSIGN_OR_RETURN(const auto tokenizer,
                   Tokenizer::Load(options.tokenizer, {.pattern = options.pattern}));
  std::vector<int32_t> ids;
  return ForEachLine(options.jsonl, [&](const std::string& line, std::string* out) -> Status {
    std::string text = line;
    if (options.jsonl) {
      const Json object = ParseJson(line);
      if (!object.is_object() || !object.contains("text") || !object["text"].is_string()) {
        return NotOfForm(line, "{\"text\": \"...\"}");
      }
      text = object["text"].get<std::string>();
    }
    ids.clear();
    if (options.special) {
      tokenizer->EncodeWithSpecials(text, &ids);
    } else {
      tokenizer->Encode(text, &ids);
    }
    if (options.jsonl) *out += "{\"ids\": [";
    AppendIds(ids, options.jsonl ? ", " : " ", out);
    if (options.jsonl) *out += "]}";
    return OkStatus();
  });
}

// "1 22 333", any spaces between.
Status ParseIds(const std::string& line, std::vector<int32_t>* ids) {
  ids->clear();
  const char* at = line.data();
  const char* const end = at + line.size();
  for (;;) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r')) ++at;
    if (at == end) return OkStatus();
    int32_t id = 0;
    const auto parsed = std::from_chars(at, end, id);
    if (parsed.ec == std::errc::result_out_of_range) return IdOutOfRange({at, parsed.ptr});
    if (parsed.ec != std::errc() ||
        (parsed.ptr < end && *parsed.ptr != ' ' && *parsed.ptr != '\t' && *parsed.ptr != '\r')) {
      const std::string rest(at, std::min<size_t>(end - at, 20));
      return DataLossError(StrCat("expected token ids separated by spaces, got \"", rest, "\""));
    }
    ids->push_back(id);
    at = parsed.ptr;
  }
}

Status ParseJsonIds(const std::string& line, std::vector<int32_t>* ids) {
  const Json object = ParseJson(line);
  if (!object.is_object() || !object.contains("ids") || !object["ids"].is_array()) {
    return NotOfForm(line, "{\"ids\": [...]}");
  }
  ASSIGN_OR_RETURN(*ids, IdsOfJson(object["ids"], "ids"));
  return OkStatus();
}

Status RunDecode(const TokenizerUseOptions& options) {
  ASSIGN_OR_RETURN(const auto tokenizer,
                   Tokenizer::Load(options.tokenizer, {.pattern = options.pattern}));
  std::vector<int32_t> ids;
  return ForEachLine(options.jsonl, [&](const std::string& line, std::string* out) -> Status {
    RETURN_IF_ERROR(options.jsonl ? ParseJsonIds(line, &ids) : ParseIds(line, &ids));
    for (const int32_t id : ids) {
      if (tokenizer->IsToken(id)) continue;
      return DataLossError(
          StrCat("id ", id, " is no token of this vocabulary of ", tokenizer->vocab_size()));
    }
    const std::string text = tokenizer->Decode(ids);
    *out = options.jsonl ? DumpJson(Json{{"text", text}}) : text;
    return OkStatus();
  });
}

Status RunShow(const TokenizerUseOptions& options) {
  ASSIGN_OR_RETURN(const auto tokenizer,
                   Tokenizer::Load(options.tokenizer, {.pattern = options.pattern}));
  const auto text_of = [&](int32_t id) { return DumpJson(Json(tokenizer->TokenBytes(id))); };
  for (const int32_t id : options.ids) {
    if (!tokenizer->IsToken(id)) {
      return InvalidArgumentError(
          StrCat("--id ", id, ": no token of this vocabulary of ", tokenizer->vocab_size()));
    }
  }
  const auto id_or_null = [](std::optional<int32_t> id) { return id ? Json(*id) : Json(nullptr); };
  if (options.json) {
    Json report = {{"kind", tokenizer->Describe()},
                   {"vocab_size", tokenizer->vocab_size()},
                   {"end_of_text", id_or_null(tokenizer->end_of_text())},
                   {"bos", id_or_null(tokenizer->bos())},
                   {"adds_bos", tokenizer->adds_bos()},
                   {"hash", tokenizer->hash()}};
    for (const int32_t id : options.ids) {
      report["tokens"][std::to_string(id)] = tokenizer->TokenBytes(id);
    }
    std::cout << DumpJson(report) << "\n";
    return OkStatus();
  }
  std::cout << tokenizer->Describe() << "\n"
            << "vocabulary:  " << tokenizer->vocab_size() << "\n";
  if (const auto id = tokenizer->end_of_text()) {
    std::cout << "end of text: " << *id << " " << text_of(*id) << "\n";
  }
  if (const auto id = tokenizer->bos()) {
    std::cout << "BOS:         " << *id << " " << text_of(*id)
              << (tokenizer->adds_bos() ? ", put before prompts" : "") << "\n";
  }
  std::cout << "hash:        " << tokenizer->hash() << "\n";
  for (const int32_t id : options.ids) std::cout << id << " " << text_of(id) << "\n";
  return OkStatus();
}

void AddTokenizerOptions(CommandLine& line, TokenizerUseOptions* options, const std::string& name) {
  line.Add(name, options->tokenizer, "tokenizer file or folder").Required();
  line.Add("--pattern", options->pattern,
           "pre-tokenisation of a tiktoken file that carries none: gpt2, cl100k, o200k, "
           "llama3, qwen or a regular expression");
}

CommandLine SetUpTokenizerTrain(CommandLine& line, TokenizerTrainOptions* options) {
  CommandLine train = line.Subcommand("train", "learn a vocabulary from text");
  train.Add("text", options->text, "files, folders or globs of text, see trireme clean").Required();
  train.Add("--vocab-size", options->vocab_size,
            "tokens, with the special ones and 256 bytes (default: 8192)");
  train.Add("--out", options->out, "tokenizer.json to write").Required();
  train.Add("--type", options->type, "bpe, wordpiece or unigram (default: bpe)")
      .OneOf({"bpe", "wordpiece", "unigram"});
  train.Add("--pattern", options->pattern,
            "cuts words: gpt2, cl100k, o200k, llama3, qwen or a regular expression "
            "(default: cl100k)");
  train.Add("--min-frequency", options->min_frequency,
            "do not merge pairs that stand less often (default: 0)");
  train
      .Add("--special", options->special,
           "special tokens, repeatable; the first ends documents unless <|endoftext|> is "
           "among them (default: <|endoftext|>)")
      .OneValueEach();
  train.Add("--field", options->field,
            "key of jsonl or column of csv and tsv that holds the text (default: text)");
  train.Add("--threads", options->threads, "threads (default: all cores)").Range(0, 1024);
  train.Flag("--json", options->json, "print the summary as one JSON object");
  train.Footer(
      "Memory grows with the distinct words of the corpus, not with its length.\n\nExample:\n"
      "  trireme tokenizer train clean.jsonl.zst --vocab-size 8192 --out tokenizer.json");
  return train;
}

std::function<Status()> SetUpTokenizer(CommandLine& line) {
  auto train_options = std::make_shared<TokenizerTrainOptions>();
  auto use_options = std::make_shared<TokenizerUseOptions>();
  CommandLine train = SetUpTokenizerTrain(line, train_options.get());

  CommandLine encode = line.Subcommand("encode", "lines of stdin to ids");
  AddTokenizerOptions(encode, use_options.get(), "--tokenizer");
  encode.Flag("--special", use_options->special,
              "special tokens in the text become ids, and the tokenizer's own are added");
  encode.Flag("--jsonl", use_options->jsonl, "in: {\"text\"}, out: {\"ids\"}");
  encode.Footer("Example:\n  echo \"Hello\" | trireme tokenizer encode --tokenizer tokenizer.json");

  CommandLine decode = line.Subcommand("decode", "lines of ids on stdin to text");
  AddTokenizerOptions(decode, use_options.get(), "--tokenizer");
  decode.Flag("--jsonl", use_options->jsonl, "in: {\"ids\"}, out: {\"text\"}");
  decode.Footer(
      "Example:\n  echo \"72 105\" | trireme tokenizer decode --tokenizer tokenizer.json");

  CommandLine show = line.Subcommand("show", "what a tokenizer is");
  AddTokenizerOptions(show, use_options.get(), "tokenizer");
  show.Add("--id", use_options->ids, "print the text of this token too, repeatable").OneValueEach();
  show.Flag("--json", use_options->json, "print one JSON object");
  show.Footer("Example:\n  trireme tokenizer show tokenizer.json");

  return [=]() -> Status {
    if (train.parsed()) return RunTokenizerTrain(*train_options);
    if (encode.parsed()) return RunEncode(*use_options);
    if (decode.parsed()) return RunDecode(*use_options);
    return RunShow(*use_options);
  };
}

const RegisterCommand kTokenizerCommand(
    {"tokenizer", "train a tokenizer, or use one on stdin",
     "trireme tokenizer train clean.jsonl.zst --vocab-size 8192 --out tokenizer.json",
     SetUpTokenizer});

}  // namespace
}  // namespace trireme
