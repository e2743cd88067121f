// Damages good inputs and feeds them to a parser.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// One to eight edits of a seed: bytes flipped, set, removed, doubled, numbers made huge, the end
// cut off, a piece of another seed put in. Of JSON also a value of another type in a place of it.
std::string Damage(const std::vector<std::string>& seeds, uint64_t number);

// Calls `parse` with damaged seeds (and first with each seed as it is): `tries` times, or for
// TRIREME_FUZZ_SECONDS where that is set. What a parser may do is return; a crash, a CHECK, an
// exception or a sanitizer's report fails the test. After a crash the input at work is still there:
// trireme_fuzz_*/input in the folder for temporary files.
void Fuzz(const std::string& name, const std::vector<std::string>& seeds, int tries,
          const std::function<void(const std::string&)>& parse);

// A folder for inputs that parsers read by path. Removed at the end of the process.
std::string FuzzFolder();

// Errors are for people: one line, never empty, and not as long as the input.
void ExpectMessage(const Status& status);

// Writes `bytes` to a file of that name and reads it as TEXT: how many documents there are, of at
// most 1,000.
int ReadTexts(const std::string& path, const std::string& bytes);

// Loads a tokenizer and, where it is one, encodes and decodes with it.
void LoadTokenizer(const std::string& path);

void WriteFile(const std::string& path, const std::string& bytes);
std::string Bytes(const void* data, size_t count);

}  // namespace trireme
