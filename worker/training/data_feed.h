// DataFeed: the microbatches of a step, read from token files.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cluster/device/buffer.h"
#include "storage/token_file.h"
#include "worker/model/decoder_stage.h"
#include "worker/training/sample_order.h"

namespace trireme {

namespace proto {
class Config;
}

class DataFeed {
 public:
  // Opens the token files of the configuration (filled in). kDataLoss: missing or corrupt files, or
  // too few tokens for one window. kInvalidArgument: a weight so small that no sample would be of
  // its source.
  static Result<std::unique_ptr<DataFeed>> Open(const proto::Config& config);

  // kInvalidArgument where a file has a larger vocabulary than the model. Those that do not say
  // what vocabulary they have are read, up to a gibibyte each.
  Status CheckVocabulary() const;
  // Of training, then of validation, in the configuration's order; without validation files that
  // are too short for a window.
  std::vector<const TokenFile*> files() const;
  // TokenFile::Fingerprint() of the training files, in the configuration's order.
  std::vector<std::string> TrainFingerprints() const;

  // Reads these microbatches (ids within the step, ascending) of a training step; what was read
  // before is gone. Errors: TokenFile::IdError() of an id outside the model's vocabulary.
  Status LoadStep(int64_t step, std::span<const MicrobatchId> microbatches);
  // Reads what a LoadStep of the same will give, while a GPU works on what was loaded last. Errors
  // are LoadStep's to tell.
  void ReadAhead(int64_t step, std::span<const MicrobatchId> microbatches);
  // The same of the validation data: microbatch i holds windows i * B .. i * B + B - 1 in order; a
  // last one is filled up with windows without labels.
  Status LoadValidation(std::span<const MicrobatchId> microbatches);

  // Puts what was loaded where the stream computes; to be called after each load. Does not wait.
  // Nothing to do on a CPU.
  void Upload(Stream* stream);
  // From now on what is read lies in pinned memory, from which a GPU copies by itself, and as long
  // as no more than so many microbatches are loaded at once, always at the same place.
  void UsePinnedMemory(int64_t microbatches) {
    pinned_ = true;
    reserve_ = microbatches;
  }

  // A microbatch that was loaded last.
  const Microbatch& Get(MicrobatchId microbatch) const;
  // Label tokens of a step, and of a loaded microbatch.
  int64_t step_label_tokens() const { return sequences_ * length_; }
  int64_t LabelTokens(MicrobatchId microbatch) const;

  // Validation microbatches for so many batches: fewer if the data end before.
  int64_t ValidationMicrobatches(int64_t batches) const;
  bool has_validation() const { return !validation_.empty(); }

 private:
  struct Source {
    std::unique_ptr<TokenFile> file;
    int64_t windows;
  };
  struct Loaded {
    Microbatch data;
    int64_t label_tokens;
  };
  // Microbatches in the host's memory, or by their addresses on the device once uploaded.
  struct Batch {
    Buffer memory;
    int64_t reserved = 0;  // microbatches
    std::map<MicrobatchId, Loaded> loaded;
    StreamEvent uploaded;  // until then the memory must stay as it is
  };
  struct StepAhead {
    int64_t step = -1;  // none
    std::vector<MicrobatchId> microbatches;
    Status status;
  };
  DataFeed() = default;
  Status OpenSources(const proto::Config& config);
  // That a file's tokens are those of the first file of data.train.
  Status CheckTokenizer(const TokenFile& file) const;
  static Result<Source> OpenSource(const std::string& path, int64_t length, bool may_be_short);
  // Ids, labels, positions and starts of documents, i32.
  int64_t MicrobatchBytes() const { return 4 * rows_ * length_ * int64_t{4}; }
  void Reserve(int64_t microbatches, Batch* batch) const;
  Loaded& Slot(int64_t index, MicrobatchId microbatch, Batch* batch) const;
  Status ReadStep(int64_t step, std::span<const MicrobatchId> microbatches, Batch* batch) const;
  Status Fill(const Source* source, int64_t window, int64_t row, Loaded* loaded) const;

  int64_t sequences_ = 0, rows_ = 0, length_ = 0, vocab_size_ = 0;
  bool isolate_ = false;
  std::vector<Source> train_, validation_;
  std::unique_ptr<SampleOrder> order_;
  bool pinned_ = false;
  int64_t reserve_ = 0;  // microbatches, at least
  Batch now_, next_;
  StepAhead ahead_;   // what next_ holds
  Buffer on_device_;  // now_'s bytes, where computing happens elsewhere
};

}  // namespace trireme
