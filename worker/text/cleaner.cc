#include "worker/text/cleaner.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "cluster/base/json.h"
#include "worker/text/charset.h"
#include "worker/text/ordered_pipeline.h"

namespace trireme {
namespace {

constexpr int64_t kCleanBytesInFlight = 64 << 20;

struct Item {
  std::string id;
  int64_t input_bytes = 0;
  CleanedText cleaned;
  DuplicateSignature signature;
};

struct CleanBatch {
  std::vector<Document> documents;
  std::vector<Item> items;
  int64_t bytes_read = 0;  // of all input, when the batch was read
};

Result<int64_t> ReadCleanBatch(TextSource* source, CleanBatch* batch) {
  ASSIGN_OR_RETURN(const int64_t bytes, NextDocuments(source, &batch->documents));
  batch->bytes_read = source->bytes_read();
  return bytes;
}

void CleanDocuments(const CleanOptions& options, CleanBatch* batch) {
  for (Document& document : batch->documents) {
    Item item;
    item.id = std::move(document.id);
    item.input_bytes = static_cast<int64_t>(document.text.size());
    item.cleaned = CleanDocument(std::move(document), options);
    const bool compared = options.exact_duplicates || options.near_duplicates;
    if (compared && !item.cleaned.dropped.has_value()) {
      item.signature = SignatureOf(item.cleaned.text);
    }
    batch->items.push_back(std::move(item));
  }
  batch->documents.clear();
}

void Count(Tally* tally, int64_t characters) {
  ++tally->documents;
  tally->characters += characters;
}

// Counts an item, and decides whether it repeats an earlier one.
void Account(const CleanOptions& options, DuplicateIndex* index, Item* item, CleanReport* report) {
  CleanedText& cleaned = item->cleaned;
  Count(&report->input, cleaned.input_characters);
  report->input_bytes += item->input_bytes;
  for (size_t i = 0; i < kTextChanges; ++i) {
    if (cleaned.changes[i] > 0) Count(&report->changed[i], cleaned.changes[i]);
  }
  if (!cleaned.dropped.has_value() && (options.exact_duplicates || options.near_duplicates)) {
    const DuplicateKind kind = index->Add(item->signature, options.near_duplicates);
    if (kind == DuplicateKind::kExact) cleaned.dropped = DropReason::kExactDuplicate;
    if (kind == DuplicateKind::kNear) cleaned.dropped = DropReason::kNearDuplicate;
  }
  if (cleaned.dropped.has_value()) {
    const bool unread = *cleaned.dropped <= DropReason::kTooDeep;
    Count(&report->dropped[static_cast<size_t>(*cleaned.dropped)],
          unread ? cleaned.input_characters : CountCharacters(cleaned.text));
  } else {
    Count(&report->output, CountCharacters(cleaned.text));
    report->output_bytes += static_cast<int64_t>(cleaned.text.size());
  }
}

Status CheckOptions(const CleanOptions& options) {
  if (!options.encoding.empty()) RETURN_IF_ERROR(CheckEncodingName(options.encoding));
  if (options.threads < 0 || options.threads > 4096) {
    return InvalidArgumentError(StrCat("--threads ", options.threads, ": expected 0 to 4096"));
  }
  if (options.symbol_share_max < 0 || options.symbol_share_max > 1) {
    return InvalidArgumentError(
        StrCat("--max-symbol-share ", options.symbol_share_max, ": expected 0 to 1"));
  }
  return OkStatus();
}

Status NothingKept(const std::vector<std::string>& paths, const CleanReport& report) {
  std::string where = paths.front();
  if (paths.size() > 1) where += StrCat(" and ", paths.size() - 1, " more");
  if (report.input.documents == 0) return DataLossError(StrCat(where, ": no documents"));
  std::string reasons;
  for (size_t i = 0; i < kDropReasons; ++i) {
    const int64_t count = report.dropped[i].documents;
    if (count == 0) continue;
    reasons +=
        StrCat(reasons.empty() ? "" : ", ", DropReasonName(static_cast<DropReason>(i)), " ", count);
  }
  return DataLossError(
      StrCat(where, ": none of ", report.input.documents, " documents is left (", reasons, ")"));
}

}  // namespace

Result<CleanReport> CleanCorpus(
    const std::vector<std::string>& paths, const CleanOptions& options,
    const std::function<Status(const std::string&, const std::string&)>& sink,
    const std::function<void(int64_t, int64_t)>& progress) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const auto source, TextSource::Open(paths, options.source));
  int threads = options.threads;
  if (threads == 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  CleanReport report;
  DuplicateIndex index;
  RETURN_IF_ERROR(RunOrdered<CleanBatch>(
      threads, kCleanBytesInFlight,
      [&](CleanBatch* batch) { return ReadCleanBatch(source.get(), batch); },
      [&](CleanBatch& batch) {
        CleanDocuments(options, &batch);
        return OkStatus();
      },
      [&](CleanBatch& batch) {
        for (Item& item : batch.items) {
          Account(options, &index, &item, &report);
          if (!item.cleaned.dropped) RETURN_IF_ERROR(sink(item.id, item.cleaned.text));
        }
        if (progress) progress(batch.bytes_read, source->bytes());
        return OkStatus();
      }));
  report.files = source->files();
  report.files_skipped = source->files_skipped();
  report.duplicate_index_bytes = static_cast<int64_t>(index.bytes());
  if (report.output.documents == 0) return NothingKept(paths, report);
  return report;
}

std::string CleanReport::ToJson(int indent) const {
  const auto tally = [](const Tally& count) {
    return Json{{"documents", count.documents}, {"characters", count.characters}};
  };
  Json json;
  json["files"] = files;
  json["files_skipped"] = files_skipped;
  json["input"] = tally(input);
  json["input"]["bytes"] = input_bytes;
  json["output"] = tally(output);
  json["output"]["bytes"] = output_bytes;
  for (size_t i = 0; i < kDropReasons; ++i) {
    json["dropped"][DropReasonName(static_cast<DropReason>(i))] = tally(dropped[i]);
  }
  for (size_t i = 0; i < kTextChanges; ++i) {
    json["changed"][TextChangeName(static_cast<TextChange>(i))] = tally(changed[i]);
  }
  json["duplicate_index_bytes"] = duplicate_index_bytes;
  return DumpJson(json, indent);
}

}  // namespace trireme
