#include "worker/training/data_feed.h"

#include <algorithm>
#include <utility>

#include "proto/config.pb.h"
#include "worker/kernels/cross_entropy.h"

namespace trireme {

Result<DataFeed::Source> DataFeed::OpenSource(const std::string& path, int64_t length,
                                              bool may_be_short) {
  Source source;
  ASSIGN_OR_RETURN(source.file, TokenFile::Open(path));
  const TokenFile& file = *source.file;
  source.windows = (file.tokens() - 1) / length;
  if (source.windows < 1 && !may_be_short) {
    return DataLossError(StrCat(file.path(), ": ", file.tokens(),
                                " tokens are not enough for one sample of data.sequence_length ",
                                length, " and its next token"));
  }
  return source;
}

Status DataFeed::CheckTokenizer(const TokenFile& file) const {
  const TokenFile& first = *train_[0].file;
  return file.CheckTokenizer(first.info().tokenizer_hash, first.path());
}

Status DataFeed::OpenSources(const proto::Config& config) {
  if (config.data().train().empty()) {
    return InvalidArgumentError("data.train: not set: expected a list of TOKENS");
  }
  SampleOrder::Options order{{}, {}, sequences_, config.data().shuffle(), config.run().seed()};
  for (const proto::DataSource& data : config.data().train()) {
    ASSIGN_OR_RETURN(Source source, OpenSource(data.path(), length_, false));
    order.windows.push_back(source.windows);
    order.weights.push_back(data.has_weight() ? data.weight() : 1.0);
    train_.push_back(std::move(source));
    RETURN_IF_ERROR(CheckTokenizer(*train_.back().file));
  }
  order_ = std::make_unique<SampleOrder>(std::move(order));
  for (int s = 0; s < config.data().train_size(); ++s) {
    if (order_->SamplesOfBlock(s) > 0) continue;
    const proto::DataSource& data = config.data().train(s);
    return InvalidArgumentError(StrCat(
        "data.train: weight ", data.has_weight() ? data.weight() : 1.0, " of ", data.path(),
        ": expected at least one sample of ", SampleOrder::kBlock, " by its share of the weights"));
  }
  for (const proto::DataSource& data : config.data().validation()) {
    ASSIGN_OR_RETURN(Source source, OpenSource(data.path(), length_, true));
    RETURN_IF_ERROR(CheckTokenizer(*source.file));
    if (source.windows > 0) validation_.push_back(std::move(source));
  }
  // One that is too short for a window adds nothing; with all of them so there is no loss to tell.
  if (validation_.empty() && !config.data().validation().empty() &&
      config.validation().every_steps() > 0) {
    return OpenSource(config.data().validation(0).path(), length_, false).status();
  }
  return OkStatus();
}

Result<std::unique_ptr<DataFeed>> DataFeed::Open(const proto::Config& config) {
  std::unique_ptr<DataFeed> feed(new DataFeed);
  feed->sequences_ = config.batch().sequences();
  feed->rows_ = config.batch().microbatch_sequences();
  feed->length_ = config.data().sequence_length();
  feed->vocab_size_ = config.model().vocab_size();
  feed->isolate_ = config.data().isolate_documents();
  RETURN_IF_ERROR(feed->OpenSources(config));
  return feed;
}

Status DataFeed::CheckVocabulary() const {
  for (const TokenFile* file : files()) {
    if (file->info().vocab_size > vocab_size_) {
      return InvalidArgumentError(StrCat("model.vocab_size: ", vocab_size_,
                                         ": expected at least the ", file->info().vocab_size,
                                         " tokens of the tokenizer of ", file->path()));
    }
    const int64_t bytes = file->tokens() * TokenDtypeBytes(file->dtype());
    if (file->info().vocab_size > 0 || bytes > TokenFile::Options().verify_bytes_max) continue;
    RETURN_IF_ERROR(file->CheckIdsBelow(vocab_size_));
  }
  return OkStatus();
}

std::vector<const TokenFile*> DataFeed::files() const {
  std::vector<const TokenFile*> files;
  for (const auto* sources : {&train_, &validation_}) {
    for (const Source& source : *sources) files.push_back(source.file.get());
  }
  return files;
}

std::vector<std::string> DataFeed::TrainFingerprints() const {
  std::vector<std::string> fingerprints;
  for (const Source& source : train_) fingerprints.push_back(source.file->Fingerprint());
  return fingerprints;
}

void DataFeed::Reserve(int64_t microbatches, Batch* batch) const {
  batch->uploaded.Synchronize();
  batch->loaded.clear();
  if (microbatches <= batch->reserved) return;
  batch->reserved = std::max(microbatches, reserve_);
  const int64_t bytes = batch->reserved * MicrobatchBytes();
  batch->memory = pinned_ ? Buffer::Pinned(bytes, "batch") : Buffer(bytes);
}

DataFeed::Loaded& DataFeed::Slot(int64_t index, MicrobatchId microbatch, Batch* batch) const {
  const int64_t n = rows_ * length_;
  auto* at = reinterpret_cast<int32_t*>(batch->memory.data()) + index * 4 * n;
  Loaded& loaded = batch->loaded[microbatch];
  loaded.data.ids = Tensor(at, DType::kI32, {rows_, length_});
  loaded.data.labels = Tensor(at + n, DType::kI32, {rows_, length_});
  loaded.data.places.positions = Tensor(at + 2 * n, DType::kI32, {rows_, length_});
  if (isolate_) {
    loaded.data.places.document_starts = Tensor(at + 3 * n, DType::kI32, {rows_, length_});
  }
  loaded.label_tokens = 0;
  return loaded;
}

void DataFeed::Upload(Stream* stream) {
  if (stream->device() == DeviceKind::kCpu) return;
  const Buffer& memory = now_.memory;
  if (on_device_.bytes() < memory.bytes()) {
    on_device_ = Buffer(memory.bytes(), stream->device(), "batch");
  }
  stream->Copy(on_device_.data(), memory.data(), std::ssize(now_.loaded) * MicrobatchBytes());
  now_.uploaded = stream->Record();
  const auto move = [&](Tensor* tensor) {
    if (!tensor->defined()) return;
    *tensor = Tensor(on_device_.data() + (tensor->bytes_data() - memory.data()), tensor->dtype(),
                     tensor->shape(), stream->device());
  };
  for (auto& [id, loaded] : now_.loaded) {
    move(&loaded.data.ids);
    move(&loaded.data.labels);
    move(&loaded.data.places.positions);
    move(&loaded.data.places.document_starts);
  }
}

Status DataFeed::Fill(const Source* source, int64_t window, int64_t row, Loaded* loaded) const {
  int32_t* ids = loaded->data.ids.as<int32_t>() + row * length_;
  int32_t* labels = loaded->data.labels.as<int32_t>() + row * length_;
  int32_t* positions = loaded->data.places.positions.as<int32_t>() + row * length_;
  int32_t* starts =
      isolate_ ? loaded->data.places.document_starts.as<int32_t>() + row * length_ : nullptr;
  if (source == nullptr) {
    for (int64_t t = 0; t < length_; ++t) {
      ids[t] = 0;
      labels[t] = kNoLabel;
      positions[t] = static_cast<int32_t>(t);
      if (starts != nullptr) starts[t] = 0;
    }
    return OkStatus();
  }
  const TokenFile& file = *source->file;
  const int64_t begin = window * length_;
  file.Read(begin, length_, ids);
  file.Read(begin + 1, length_, labels);
  int64_t document = isolate_ ? file.DocumentAt(begin) : 0;
  int64_t start = 0;
  for (int64_t t = 0; t < length_; ++t) {
    if (labels[t] < 0 || labels[t] >= vocab_size_ || ids[t] < 0 || ids[t] >= vocab_size_) {
      const bool label = ids[t] >= 0 && ids[t] < vocab_size_;
      return file.IdError(begin + t + label, label ? labels[t] : ids[t], vocab_size_);
    }
    while (isolate_ && document + 1 < file.documents() &&
           file.document_begin(document + 1) <= begin + t) {
      ++document;
      start = t;
    }
    positions[t] = static_cast<int32_t>(t - start);
    if (starts != nullptr) starts[t] = static_cast<int32_t>(start);
  }
  loaded->label_tokens += length_;
  return OkStatus();
}

Status DataFeed::ReadStep(int64_t step, std::span<const MicrobatchId> microbatches,
                          Batch* batch) const {
  Reserve(static_cast<int64_t>(microbatches.size()), batch);
  for (size_t i = 0; i < microbatches.size(); ++i) {
    Loaded& loaded = Slot(static_cast<int64_t>(i), microbatches[i], batch);
    loaded.data.gradient_scale = 1.0 / static_cast<double>(step_label_tokens());
    for (int64_t row = 0; row < rows_; ++row) {
      const SamplePlace place = order_->At(step, microbatches[i] * rows_ + row);
      RETURN_IF_ERROR(Fill(&train_[place.source], place.window, row, &loaded));
    }
  }
  return OkStatus();
}

void DataFeed::ReadAhead(int64_t step, std::span<const MicrobatchId> microbatches) {
  ahead_ = {step, {microbatches.begin(), microbatches.end()}, OkStatus()};
  ahead_.status = ReadStep(step, microbatches, &next_);
}

Status DataFeed::LoadStep(int64_t step, std::span<const MicrobatchId> microbatches) {
  if (ahead_.step != step || !std::ranges::equal(ahead_.microbatches, microbatches)) {
    return ReadStep(step, microbatches, &now_);
  }
  std::swap(now_, next_);
  return std::exchange(ahead_, StepAhead()).status;
}

Status DataFeed::LoadValidation(std::span<const MicrobatchId> microbatches) {
  Reserve(static_cast<int64_t>(microbatches.size()), &now_);
  for (size_t i = 0; i < microbatches.size(); ++i) {
    Loaded& loaded = Slot(static_cast<int64_t>(i), microbatches[i], &now_);
    for (int64_t row = 0; row < rows_; ++row) {
      int64_t window = microbatches[i] * rows_ + row;
      const Source* source = nullptr;
      for (const Source& candidate : validation_) {
        if (window < candidate.windows) {
          source = &candidate;
          break;
        }
        window -= candidate.windows;
      }
      RETURN_IF_ERROR(Fill(source, window, row, &loaded));
    }
  }
  return OkStatus();
}

const Microbatch& DataFeed::Get(MicrobatchId microbatch) const {
  return now_.loaded.at(microbatch).data;
}

int64_t DataFeed::LabelTokens(MicrobatchId microbatch) const {
  return now_.loaded.at(microbatch).label_tokens;
}

int64_t DataFeed::ValidationMicrobatches(int64_t batches) const {
  int64_t windows = 0;
  for (const Source& source : validation_) windows += source.windows;
  windows = std::min(windows, batches * sequences_);
  return (windows + rows_ - 1) / rows_;
}

}  // namespace trireme
