#include "tests/coordinator/effect_text.h"

#include <google/protobuf/text_format.h>

#include "cluster/base/status.h"
#include "proto/control.pb.h"

namespace trireme {
namespace {

std::string Text(const google::protobuf::Message& message) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(message, &text);
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

struct Line {
  std::string operator()(const SendTo& effect) const { return StrCat(": ", Text(*effect.message)); }
  std::string operator()(const CloseWorker& effect) const {
    return StrCat("close ", effect.worker, ": ", effect.reason);
  }
  std::string operator()(const WriteEvent& effect) const {
    const Event& event = effect.event;
    std::string line =
        StrCat("event ", event.kind, " generation ", event.generation, " step ", event.step);
    if (event.worker) line += StrCat(" worker ", *event.worker);
    if (event.detect_seconds) line += StrCat(" detect_seconds ", *event.detect_seconds);
    if (event.exit_code) line += StrCat(" exit_code ", *event.exit_code);
    line += ": " + event.reason;
    for (const MemberInfo& member : event.members) {
      line += StrCat(" [rank ", member.rank, " ", member.role, " place ", member.place, "]");
    }
    return line;
  }
  std::string operator()(const WriteMetrics& effect) const {
    if (const auto* validation = std::get_if<ValidationMetrics>(&effect.line)) {
      return StrCat("metrics step ", validation->step, " validation_loss ", validation->loss);
    }
    const auto& step = std::get<StepMetrics>(effect.line);
    return StrCat("metrics step ", step.step, " loss ", step.loss, " grad_norm ", step.grad_norm,
                  " lr ", step.lr, " tokens ", step.tokens, " step_ms ", step.step_ms,
                  " tokens_per_second ", step.tokens_per_second, " mfu ", step.mfu.value_or(0),
                  " memory_bytes_max ", step.memory_bytes_max);
  }
  std::string operator()(const WriteJournal& effect) const {
    const JournalRecord& record = effect.record;
    return StrCat("journal ", record.kind, " step ", record.step,
                  record.exit_code ? StrCat(" exit_code ", *record.exit_code) : "", ": ",
                  record.reason);
  }
  std::string operator()(const CommitManifest& effect) const {
    std::string line = StrCat("commit_manifest ", effect.step, ":");
    for (const auto& [place, part] : effect.parts) line += StrCat(" ", place, "=", part);
    return line;
  }
  std::string operator()(const RemoveCheckpoint& effect) const {
    return StrCat("delete_checkpoint ", effect.step);
  }
  std::string operator()(const EndRun& effect) const {
    return StrCat("end_run exit_code ", effect.verdict.exit_code, " step ", effect.verdict.step,
                  ": ", effect.verdict.reason);
  }
};

}  // namespace

std::vector<std::string> EffectLines(const Effects& effects) {
  std::vector<std::string> lines;
  std::string receivers;
  std::string sent;
  const auto flush = [&] {
    if (!receivers.empty()) lines.push_back(StrCat("send", receivers, sent));
    receivers.clear();
  };
  for (const Effect& effect : effects) {
    const std::string line = std::visit(Line(), effect);
    const auto* send = std::get_if<SendTo>(&effect);
    if (send == nullptr || line != sent) flush();
    if (send != nullptr) {
      receivers += StrCat(" ", send->worker);
      sent = line;
    } else {
      lines.push_back(line);
    }
  }
  flush();
  return lines;
}

}  // namespace trireme
