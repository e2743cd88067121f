// trireme clean: a corpus of anything into jsonl of clean, distinct documents.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/command.h"
#include "cli/run_options.h"
#include "cli/text_progress.h"
#include "storage/output_file.h"
#include "worker/text/cleaner.h"
#include "worker/text/text_writer.h"

namespace trireme {
namespace {

struct CleanCommand {
  std::vector<std::string> text;
  std::string out;
  std::string html = "auto";
  bool keep_duplicates = false;
  bool keep_near_duplicates = false;
  int64_t document_mib_max = 256;
  bool json = false;
  CleanOptions clean;
};

void PrintReport(const CleanReport& report, const std::string& out) {
  const auto line = [](const char* what, const char* reason, const Tally& tally) {
    if (tally.documents == 0) return;
    std::printf("  %-8s %-20s %12lld documents %15lld characters\n", what, reason,
                static_cast<long long>(tally.documents), static_cast<long long>(tally.characters));
  };
  std::printf("%s: %lld of %lld documents kept, %lld of %lld characters, from %lld files\n",
              out.c_str(), static_cast<long long>(report.output.documents),
              static_cast<long long>(report.input.documents),
              static_cast<long long>(report.output.characters),
              static_cast<long long>(report.input.characters),
              static_cast<long long>(report.files));
  for (size_t i = 0; i < kDropReasons; ++i) {
    line("dropped", DropReasonName(static_cast<DropReason>(i)), report.dropped[i]);
  }
  for (size_t i = 0; i < kTextChanges; ++i) {
    line("changed", TextChangeName(static_cast<TextChange>(i)), report.changed[i]);
  }
}

// A folder or a glob leaves out what is written; what is named is meant.
Status CheckOut(const CleanCommand& options) {
  for (const std::string& text : options.text) {
    std::error_code error;  // of what is not there
    if (!std::filesystem::equivalent(text, options.out, error) || error) continue;
    return InvalidArgumentError(
        StrCat("--out ", options.out, ": is also read: expected a file that is none of the texts"));
  }
  return OkStatus();
}

Status RunClean(CleanCommand& options) {
  RETURN_IF_ERROR(CheckOut(options));
  for (const auto& [name, value] : {std::pair{"min", options.clean.characters_min},
                                    std::pair{"max", options.clean.characters_max}}) {
    if (value >= 0) continue;
    return InvalidArgumentError(StrCat("--", name, "-characters ", value, ": expected 0 or more"));
  }
  const int64_t least = options.clean.characters_min, most = options.clean.characters_max;
  if (most > 0 && least > most) {
    return InvalidArgumentError(
        StrCat("--min-characters ", least, ": expected at most --max-characters (", most, ")"));
  }
  options.clean.html = options.html == "always"  ? HtmlMode::kAlways
                       : options.html == "never" ? HtmlMode::kNever
                                                 : HtmlMode::kAuto;
  options.clean.exact_duplicates = !options.keep_duplicates;
  options.clean.near_duplicates = !options.keep_duplicates && !options.keep_near_duplicates;
  options.clean.source.document_bytes_max = options.document_mib_max << 20;
  ASSIGN_OR_RETURN(const auto writer, TextWriter::Create(options.out));
  const std::string report_path = StemOfText(options.out) + ".report.json";
  ASSIGN_OR_RETURN(const auto report_file, OutputFile::Create(report_path));
  options.clean.source.left_out = {options.out, report_path};
  TextProgress progress("clean");
  auto report = CleanCorpus(
      options.text, options.clean,
      [&](const std::string& id, const std::string& text) { return writer->Write(id, text); },
      [&](int64_t done, int64_t all) { progress.Update(done, all); });
  progress.Finish();
  RETURN_IF_ERROR(report.status());
  // A full disk is met before the text is in place.
  RETURN_IF_ERROR(report_file->Write(report->ToJson() + "\n"));
  RETURN_IF_ERROR(report_file->Flush());
  RETURN_IF_ERROR(writer->Finish());
  RETURN_IF_ERROR(report_file->Commit());
  if (options.json) {
    std::cout << report->ToJson(-1) << "\n";
  } else {
    PrintReport(*report, options.out);
    std::printf("%s: every reason, counted\n", report_path.c_str());
  }
  return OkStatus();
}

std::function<Status()> SetUpClean(CommandLine& line) {
  auto options = std::make_shared<CleanCommand>();
  line.Add("text", options->text,
           "files, folders or globs of .txt .md .html .jsonl .csv .tsv; .gz .zst .bz2 .xz .tar too")
      .Required();
  line.Add("--out", options->out, "what to write: NAME.jsonl.zst, .jsonl.gz or .jsonl").Required();
  line.Add("--field", options->clean.source.field,
           "key of jsonl or column of csv and tsv that holds the text (default: text)");
  line.Add("--html", options->html,
           "which documents are HTML: auto (files named .html), always, never")
      .OneOf({"auto", "always", "never"});
  line.Flag("--lowercase", options->clean.lowercase, "lower-case everything");
  line.Add("--encoding", options->clean.encoding,
           "encoding of what is not UTF-8 and declares none, for example windows-1252");
  line.Add("--min-characters", options->clean.characters_min,
           "drop documents with fewer characters (default: 5)");
  line.Add("--max-characters", options->clean.characters_max,
           "drop documents with more characters (default: any number)");
  line.Add("--max-symbol-share", options->clean.symbol_share_max,
           "drop documents with a larger share of symbols and punctuation (default: 0.5)");
  line.Flag("--keep-near-duplicates", options->keep_near_duplicates, "drop equal documents alone");
  line.Flag("--keep-duplicates", options->keep_duplicates, "drop no duplicates");
  AddDocumentLimit(line, &options->document_mib_max);
  line.Add("--threads", options->clean.threads, "threads (default: all cores)");
  AddJsonOption(line, &options->json);
  return [options] { return RunClean(*options); };
}

const RegisterCommand kCleanCommand({"clean",
                                     "clean, filter and de-duplicate a corpus; report every reason",
                                     "trireme clean corpus/ --out clean.jsonl.zst", SetUpClean});

}  // namespace
}  // namespace trireme
