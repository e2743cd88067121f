// trireme pack: text into token files.
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/run_options.h"
#include "cli/text_progress.h"
#include "storage/token_file.h"
#include "worker/text/packer.h"
#include "worker/text/tokenizer.h"

namespace trireme {
namespace {

struct PackCommand {
  std::vector<std::string> text;
  std::string tokenizer;
  std::string pattern;
  int64_t document_mib_max = 256;
  std::optional<int32_t> end_of_text;
  bool json = false;
  PackOptions pack;
};

void PrintReport(const PackReport& report) {
  const int64_t train = report.tokens - report.validation_tokens;
  for (size_t i = 0; i < report.names.size(); ++i) {
    std::printf("%s.bin .idx .json: %lld tokens\n", report.names[i].c_str(),
                static_cast<long long>(i == 0 ? train : report.validation_tokens));
  }
  if (!report.tokenizer_copy.empty()) {
    std::printf("%s: the tokenizer\n", report.tokenizer_copy.c_str());
  }
  std::printf("%lld documents, %lld tokens, %.2f bytes a token, %.1f MB/s\n",
              static_cast<long long>(report.documents), static_cast<long long>(report.tokens),
              report.bytes_per_token(), report.megabytes_per_second());
}

Status DropEnding(std::string* out) {
  const std::string name = WithoutTokensEnding(*out);
  if (name != *out && (name.empty() || name.ends_with('/'))) {
    return InvalidArgumentError(
        StrCat("--out ", *out, ": expected a name before ", out->substr(name.size())));
  }
  *out = name;
  return OkStatus();
}

Status RunPack(PackCommand& options) {
  RETURN_IF_ERROR(DropEnding(&options.pack.out));
  options.pack.source.document_bytes_max = options.document_mib_max << 20;
  if (options.end_of_text && *options.end_of_text < 0) {
    return InvalidArgumentError(
        StrCat("--end-of-text ", *options.end_of_text, ": expected an id, 0 or more"));
  }
  options.pack.end_of_text = options.end_of_text;
  ASSIGN_OR_RETURN(const auto tokenizer,
                   Tokenizer::Load(options.tokenizer, {.pattern = options.pattern}));
  TextProgress progress("pack");
  const auto report = PackCorpus(options.text, *tokenizer, options.tokenizer, options.pack,
                                 [&](int64_t done, int64_t all) { progress.Update(done, all); });
  progress.Finish();
  RETURN_IF_ERROR(report.status());
  if (options.json) {
    std::cout << report.value().ToJson() << "\n";
  } else {
    PrintReport(report.value());
  }
  return OkStatus();
}

std::function<Status()> SetUpPack(CommandLine& line) {
  auto options = std::make_shared<PackCommand>();
  line.Add("text", options->text,
           "files, folders or globs of .txt .md .html .jsonl .csv .tsv; .gz .zst .bz2 .xz .tar too")
      .Required();
  line.Add("--tokenizer", options->tokenizer, "tokenizer file or folder").Required();
  line.Add("--out", options->pack.out, "name of the token files, with or without .bin").Required();
  line.Add("--validation", options->pack.validation,
           "share of the tokens, from the end, that becomes NAME_validation");
  line.Add("--field", options->pack.source.field,
           "key of jsonl or column of csv and tsv that holds the text (default: text)");
  line.Add("--end-of-text", options->end_of_text,
           "id that ends every document (default: the tokenizer's)");
  line.Add("--pattern", options->pattern, "pre-tokenisation of a tiktoken file that carries none");
  AddDocumentLimit(line, &options->document_mib_max);
  line.Add("--threads", options->pack.threads, "threads (default: all cores)");
  AddJsonOption(line, &options->json);
  return [options] { return RunPack(*options); };
}

const RegisterCommand kPackCommand(
    {"pack", "encode text into token files for training",
     "trireme pack clean.jsonl.zst --tokenizer tokenizer.json --out data/corpus --validation 0.01",
     SetUpPack});

}  // namespace
}  // namespace trireme
