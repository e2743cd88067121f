#include "worker/text/packer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>
#include <utility>

#include "cluster/base/json.h"
#include "storage/token_file_writer.h"
#include "worker/text/ordered_pipeline.h"
#include "worker/text/unicode_clean.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPackBytesInFlight = 32 << 20;

struct PackBatch {
  std::vector<Document> documents;
  std::vector<std::vector<int32_t>> ids;  // a document each
  std::vector<int64_t> text_bytes;
  int64_t bytes_read = 0;
};

Result<int64_t> ReadPackBatch(TextSource* source, PackBatch* batch) {
  ASSIGN_OR_RETURN(const int64_t bytes, NextDocuments(source, &batch->documents));
  batch->bytes_read = source->bytes_read();
  return bytes;
}

Status EncodeBatch(const Tokenizer& tokenizer, int32_t end_of_text, PackBatch* batch) {
  for (const Document& document : batch->documents) {
    RETURN_IF_ERROR(CheckUtf8(document));
    batch->text_bytes.push_back(static_cast<int64_t>(document.text.size()));
    std::vector<int32_t>& ids = batch->ids.emplace_back();
    if (document.text.empty()) continue;
    tokenizer.Encode(document.text, &ids);
    ids.push_back(end_of_text);
  }
  batch->documents.clear();
  return OkStatus();
}

// The copy of the tokenizer goes first: token files never name one that is not there.
Result<TokenFileInfo> DescribeTokenizer(const Tokenizer& tokenizer, const std::string& path,
                                        int32_t end_of_text, const std::string& out,
                                        std::string* copy) {
  TokenFileInfo info;
  info.tokenizer_hash = tokenizer.hash();
  info.vocab_size = tokenizer.vocab_size();
  info.end_of_text = end_of_text;
  const std::string beside = out + ".tokenizer.json";
  const Status saved = tokenizer.Save(beside);
  if (saved.ok()) {
    *copy = beside;
    info.tokenizer_path = fs::path(beside).filename().string();
  } else if (saved.code() == StatusCode::kStorage) {
    return saved;
  } else {
    std::error_code ignored;
    info.tokenizer_path = fs::absolute(path, ignored).lexically_normal().string();
  }
  return info;
}

Status CheckOptions(const Tokenizer& tokenizer, const PackOptions& options) {
  if (!(options.validation >= 0.0 && options.validation < 1.0)) {
    return InvalidArgumentError(
        StrCat("--validation ", options.validation, ": expected a share from 0 to below 1"));
  }
  if (options.threads < 0 || options.threads > 4096) {
    return InvalidArgumentError(StrCat("--threads ", options.threads, ": expected 0 to 4096"));
  }
  const std::string name = fs::path(options.out).filename().string();
  if (name.empty() || name == "." || name == "..") {
    return InvalidArgumentError(
        StrCat("--out '", options.out, "': expected a name such as data/corpus"));
  }
  const int64_t vocab_size = tokenizer.vocab_size();
  if (options.end_of_text && (*options.end_of_text < 0 || *options.end_of_text >= vocab_size)) {
    return InvalidArgumentError(
        StrCat("--end-of-text ", *options.end_of_text, ": expected 0 to ", vocab_size - 1));
  }
  return OkStatus();
}

Status Finish(const PackOptions& options, TokenFileWriter* writer, PackReport* report) {
  if (options.validation == 0.0) {
    report->names = {options.out};
    return writer->Finish();
  }
  if (report->tokens < 2) {
    return DataLossError(
        StrCat("a stream of ", report->tokens, " token cannot be divided; expected at least 2"));
  }
  const auto wanted =
      static_cast<int64_t>(std::llround(static_cast<double>(report->tokens) * options.validation));
  report->validation_tokens = std::clamp<int64_t>(wanted, 1, report->tokens - 1);
  report->names = {options.out + "_train", options.out + "_validation"};
  return writer->FinishSplit(report->names[0], report->names[1], report->validation_tokens);
}

}  // namespace

Result<PackReport> PackCorpus(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& tokenizer_path, const PackOptions& options,
                              const std::function<void(int64_t, int64_t)>& progress) {
  RETURN_IF_ERROR(CheckOptions(tokenizer, options));
  const std::optional<int32_t> end =
      options.end_of_text ? options.end_of_text : tokenizer.end_of_text();
  if (!end.has_value()) {
    return InvalidArgumentError(
        StrCat(tokenizer_path, ": names no end-of-text token, with which every document ends; ",
               "--end-of-text ID gives one"));
  }
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const auto source, TextSource::Open(paths, options.source));
  PackReport report;
  TokenFileInfo writer_info;
  writer_info.vocab_size = tokenizer.vocab_size();
  ASSIGN_OR_RETURN(const auto writer, TokenFileWriter::Create(options.out, writer_info));
  int threads = options.threads;
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  RETURN_IF_ERROR(RunOrdered<PackBatch>(
      threads, kPackBytesInFlight,
      [&](PackBatch* batch) { return ReadPackBatch(source.get(), batch); },
      [&](PackBatch& batch) { return EncodeBatch(tokenizer, *end, &batch); },
      [&](PackBatch& batch) {
        for (size_t i = 0; i < batch.ids.size(); ++i) {
          if (batch.ids[i].empty()) {
            ++report.documents_empty;
            continue;
          }
          RETURN_IF_ERROR(writer->AddDocument(batch.ids[i]));
          report.text_bytes += batch.text_bytes[i];
        }
        if (progress) progress(batch.bytes_read, source->bytes());
        return OkStatus();
      }));
  report.documents = writer->documents();
  report.tokens = writer->tokens();
  if (report.tokens == 0) {
    return DataLossError(
        StrCat(paths.front(), paths.size() > 1 ? " and others" : "", ": no documents with text"));
  }
  ASSIGN_OR_RETURN(TokenFileInfo info, DescribeTokenizer(tokenizer, tokenizer_path, *end,
                                                         options.out, &report.tokenizer_copy));
  writer->SetInfo(std::move(info));
  const Status finished = Finish(options, writer.get(), &report);
  if (!finished.ok()) {
    if (!report.tokenizer_copy.empty()) ::unlink(report.tokenizer_copy.c_str());
    return finished;
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

double PackReport::bytes_per_token() const {
  // End-of-text tokens stand for no bytes.
  const int64_t text_tokens = tokens - documents;
  return text_tokens > 0 ? static_cast<double>(text_bytes) / static_cast<double>(text_tokens) : 0.0;
}

double PackReport::megabytes_per_second() const {
  return seconds > 0 ? static_cast<double>(text_bytes) / 1e6 / seconds : 0.0;
}

std::string PackReport::ToJson() const {
  Json json;
  json["documents"] = documents;
  json["documents_empty"] = documents_empty;
  json["tokens"] = tokens;
  json["validation_tokens"] = validation_tokens;
  json["text_bytes"] = text_bytes;
  json["bytes_per_token"] = bytes_per_token();
  json["seconds"] = seconds;
  json["megabytes_per_second"] = megabytes_per_second();
  json["files"] = names;
  json["tokenizer_copy"] = tokenizer_copy;
  return DumpJson(json);
}

}  // namespace trireme
