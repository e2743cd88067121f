// Encoding in MB/s on one core and training in seconds, on the text files named by --text.
//
//   tokenizer_benchmark --text=english.txt --text=chinese.txt [--tokenizer=FILE_OR_FOLDER ...]
//
// Every tokenizer is first checked to decode what it encodes; a normaliser may change the text.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "worker/text/bpe_trainer.h"
#include "worker/text/pretokenize.h"
#include "worker/text/tokenizer.h"
#include "worker/text/word_counter.h"

namespace trireme {
namespace {

constexpr size_t kPartBytes = size_t{64} << 10;

// Parts of about 64 KiB that end at line breaks: what a corpus of documents looks like.
std::vector<std::string> Parts(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', std::min(begin + kPartBytes, text.size() - 1));
    const size_t next = end == std::string::npos ? text.size() : end + 1;
    parts.push_back(text.substr(begin, next - begin));
    begin = next;
  }
  return parts;
}

void Encode(benchmark::State& state, const Tokenizer& tokenizer,
            const std::vector<std::string>& parts) {
  std::vector<int32_t> ids;
  size_t bytes = 0, tokens = 0, changed = 0;
  for (const std::string& part : parts) {
    ids.clear();
    tokenizer.Encode(part, &ids);
    tokens += ids.size();
    bytes += part.size();
    changed += tokenizer.Decode(ids) != part;
  }
  if (changed > 0 && tokenizer.Describe().find("NFC") == std::string::npos) {
    state.SkipWithError("a part decodes to something else");
    return;
  }
  for (auto _ : state) {
    for (const std::string& part : parts) {
      ids.clear();
      tokenizer.Encode(part, &ids);
      benchmark::DoNotOptimize(ids.data());
    }
  }
  const auto all = static_cast<double>(bytes) * static_cast<double>(state.iterations());
  state.counters["MB/s"] = benchmark::Counter(all / 1e6, benchmark::Counter::kIsRate);
  state.counters["bytes/token"] = static_cast<double>(bytes) / static_cast<double>(tokens);
}

void Train(benchmark::State& state, const std::string& pattern, int64_t vocab_size,
           const std::vector<std::string>& parts, int threads) {
  for (auto _ : state) {
    BpeTrainOptions options;
    options.pattern = PatternByName(pattern);
    options.vocab_size = vocab_size;
    auto counter = WordCounter::Create(options.pattern, threads);
    for (const std::string& part : parts) counter.value()->Add(part);
    const WordTable words = counter.value()->Finish();
    auto definition = TrainBpe(words, options);
    CHECK(definition.ok()) << definition.status().message();
    state.counters["merges"] = static_cast<double>(definition->merges.size());
    state.counters["words"] = static_cast<double>(words.size());
  }
}

void Register(const std::string& text_path, const std::vector<std::string>& tokenizers) {
  std::ifstream file(text_path, std::ios::binary);
  CHECK(file) << text_path << " cannot be read";
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto parts = std::make_shared<std::vector<std::string>>(Parts(text));
  const std::string name = std::filesystem::path(text_path).stem().string();
  for (const std::string& path : tokenizers) {
    auto loaded = Tokenizer::Load(path);
    CHECK(loaded.ok()) << loaded.status().message();
    const std::shared_ptr<Tokenizer> tokenizer = std::move(loaded).value();
    benchmark::RegisterBenchmark(
        ("encode/" + std::filesystem::path(path).stem().string() + "/" + name).c_str(),
        [=](benchmark::State& state) { Encode(state, *tokenizer, *parts); })
        ->Unit(benchmark::kMillisecond);
  }
  for (const char* pattern : {"gpt2", "cl100k"}) {
    for (const int threads : {1, 2}) {
      benchmark::RegisterBenchmark(
          ("train_30k/" + std::string(pattern) + "/" + name + "/threads:" + std::to_string(threads))
              .c_str(),
          [=](benchmark::State& state) { Train(state, pattern, 30000, *parts, threads); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime()
          ->Iterations(1);
    }
  }
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::vector<std::string> texts, tokenizers;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--text=")) {
      texts.push_back(argument.substr(7));
    } else if (argument.starts_with("--tokenizer=")) {
      tokenizers.push_back(argument.substr(12));
    } else {
      std::cerr << argument << ": expected --text=FILE or --tokenizer=FILE\n";
      return 2;
    }
  }
  if (texts.empty()) {
    std::cerr << "give --text=FILE\n";
    return 2;
  }
  for (const std::string& text : texts) Register(text, tokenizers);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) { return trireme::Main(argc, argv); }
