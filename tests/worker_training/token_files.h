// Token files of documents given by their ids, and a configuration that reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "proto/config.pb.h"
#include "storage/token_file_writer.h"
#include "tests/storage/temporary_folder.h"
#include "worker/training/data_feed.h"

namespace trireme {

using Ids = std::vector<int32_t>;

// vocab_size 0: a file that does not say what vocabulary it has, as Megatron writes it.
inline void WriteTokens(const std::string& name, const std::vector<Ids>& documents,
                        int64_t vocab_size = 0) {
  auto writer =
      TokenFileWriter::Create(name, {.vocab_size = vocab_size > 0 ? vocab_size : 1000}).value();
  for (const Ids& document : documents) CHECK(writer->AddDocument(document).ok());
  CHECK(writer->Finish().ok());
  if (vocab_size == 0) std::filesystem::remove(name + ".json");
}

struct FeedOptions {
  std::vector<std::string> train, validation;
  std::vector<double> weights;  // of train; empty: not set
  int64_t length = 5, sequences = 4, rows = 2, vocab_size = 20;
  bool isolate = false;
};

// A filled-in configuration as far as a DataFeed reads it; without shuffle.
inline Result<std::unique_ptr<DataFeed>> OpenFeed(const FeedOptions& options) {
  proto::Config config;
  config.mutable_model()->set_vocab_size(options.vocab_size);
  for (size_t i = 0; i < options.train.size(); ++i) {
    proto::DataSource* source = config.mutable_data()->add_train();
    source->set_path(options.train[i]);
    if (!options.weights.empty()) source->set_weight(options.weights[i]);
  }
  for (const std::string& path : options.validation) {
    config.mutable_data()->add_validation()->set_path(path);
  }
  config.mutable_data()->set_sequence_length(options.length);
  config.mutable_data()->set_shuffle(false);
  config.mutable_data()->set_isolate_documents(options.isolate);
  config.mutable_batch()->set_sequences(options.sequences);
  config.mutable_batch()->set_microbatch_sequences(options.rows);
  config.mutable_validation()->set_every_steps(1);
  return DataFeed::Open(config);
}

inline Ids Values(const Tensor& tensor) {
  return {tensor.as<int32_t>(), tensor.as<int32_t>() + tensor.elements()};
}

}  // namespace trireme
