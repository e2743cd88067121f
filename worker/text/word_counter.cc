#include "worker/text/word_counter.h"

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "cluster/base/checksum.h"
#include "worker/text/pretokenize.h"
#include "worker/text/utf8_segments.h"

namespace trireme {
namespace {

constexpr size_t kCountedBytes = size_t{1} << 20;
constexpr size_t kBatchesAThread = 3;

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

WordTable::WordTable() : slots_(1 << 12) {}

std::string_view WordTable::word(size_t index) const {
  return std::string_view(bytes_).substr(words_[index].begin, words_[index].size);
}

void WordTable::Add(std::string_view word, int64_t count) {
  const auto hash = static_cast<uint32_t>(Checksum64(word));
  size_t at = hash & (slots_.size() - 1);
  for (; slots_[at] != 0; at = (at + 1) & (slots_.size() - 1)) {
    Word& known = words_[slots_[at] - 1];
    if (known.hash == hash && known.size == word.size() &&
        std::memcmp(bytes_.data() + known.begin, word.data(), word.size()) == 0) {
      known.count += count;
      return;
    }
  }
  CHECK_LT(words_.size(), size_t{0xffffffff}) << "more distinct words than 32 bits count";
  words_.push_back({bytes_.size(), static_cast<uint32_t>(word.size()), hash, count});
  bytes_.append(word);
  slots_[at] = static_cast<uint32_t>(words_.size());
  if (words_.size() * 2 > slots_.size()) Grow();
}

void WordTable::Add(const WordTable& other) {
  for (size_t i = 0; i < other.size(); ++i) Add(other.word(i), other.count(i));
}

void WordTable::Grow() {
  slots_.assign(slots_.size() * 2, 0);
  for (size_t i = 0; i < words_.size(); ++i) {
    size_t at = words_[i].hash & (slots_.size() - 1);
    while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = static_cast<uint32_t>(i + 1);
  }
}

// Documents gather in batches; threads take batches and count into tables of their own.
struct WordCounter::State {
  struct Batch {
    std::string text;
    std::vector<size_t> ends;  // of documents, or of parts cut where a word ends for certain
  };

  std::unique_ptr<PreTokenizer> words;
  bool published_pattern = false;
  Batch filling;
  std::vector<WordTable> tables;
  std::vector<std::thread> threads;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> queue;
  bool closed = false;

  void Run(WordTable* table) {
    for (;;) {
      Batch batch;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return closed || !queue.empty(); });
        if (queue.empty()) return;
        batch = std::move(queue.front());
        queue.pop_front();
        changed.notify_all();
      }
      size_t begin = 0;
      for (const size_t end : batch.ends) {
        Count(std::string_view(batch.text).substr(begin, end - begin), table);
        begin = end;
      }
    }
  }

  void Count(std::string_view text, WordTable* table) const {
    ForEachUtf8Segment(
        text,
        [&](std::string_view valid) {
          std::array<size_t, 512> ends;
          size_t begin = 0, piece = 0;
          while (const size_t count = words->Split(valid, &begin, ends)) {
            for (size_t i = 0; i < count; ++i) {
              table->Add(valid.substr(piece, ends[i] - piece), 1);
              piece = ends[i];
            }
          }
        },
        [](uint8_t) {});
  }

  void Submit() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return queue.size() < kBatchesAThread * threads.size(); });
    queue.push_back(std::exchange(filling, Batch()));
    changed.notify_all();
  }

  void Close() {
    {
      const std::lock_guard lock(mutex);
      closed = true;
      changed.notify_all();
    }
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
};

WordCounter::WordCounter(std::unique_ptr<State> state) : state_(std::move(state)) {}

WordCounter::~WordCounter() { state_->Close(); }

Result<std::unique_ptr<WordCounter>> WordCounter::Create(const std::string& pattern, int threads) {
  CHECK_GT(threads, 0);
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->words, MakePreTokenizer(pattern));
  state->published_pattern = !NameOfPattern(pattern).empty();
  state->tables.resize(threads);
  for (int i = 0; i < threads; ++i) {
    state->threads.emplace_back([s = state.get(), i] { s->Run(&s->tables[i]); });
  }
  return std::unique_ptr<WordCounter>(new WordCounter(std::move(state)));
}

void WordCounter::Add(std::string_view document) {
  while (!document.empty()) {
    size_t part = document.size();
    if (state_->published_pattern && part > kCountedBytes) {
      // Every published pattern ends a piece between a letter and a space.
      size_t cut = kCountedBytes;
      while (cut < part && !(document[cut] == ' ' && IsLetter(document[cut - 1]))) ++cut;
      part = cut;
    }
    state_->filling.text.append(document.substr(0, part));
    state_->filling.ends.push_back(state_->filling.text.size());
    document.remove_prefix(part);
    if (state_->filling.text.size() >= kCountedBytes) state_->Submit();
  }
}

WordTable WordCounter::Finish() {
  if (!state_->filling.text.empty()) state_->Submit();
  state_->Close();
  WordTable all = std::move(state_->tables[0]);
  for (size_t i = 1; i < state_->tables.size(); ++i) {
    all.Add(state_->tables[i]);
    state_->tables[i] = WordTable();
  }
  return all;
}

}  // namespace trireme
