#include "worker/text/record_reader.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>
#include <vector>

#include "cluster/base/json.h"

namespace trireme {
namespace {

using Content = TextKind::Content;

Status TooLarge(const std::string& where, const TextSourceOptions& options) {
  return DataLossError(StrCat(where, ": a document larger than ", options.document_bytes_max >> 20,
                              " MiB; cut it into smaller ones or raise --max-document-mib"));
}

class PlainReader : public RecordReader {
 public:
  PlainReader(ByteStream* stream, bool html, std::string where, const TextSourceOptions& options)
      : stream_(stream), html_(html), where_(std::move(where)), options_(options) {}

  Result<bool> Next(Document* document) override {
    if (done_) return false;
    done_ = true;
    document->id = document->where = where_;
    document->html = html_;
    std::string& text = document->text;
    text.clear();
    constexpr size_t kStep = 1 << 16;
    while (true) {
      const size_t size = text.size();
      text.resize(size + std::max(kStep, size / 2));
      auto count = stream_->Read(text.data() + size, text.size() - size);
      if (!count.ok()) return count.status();
      text.resize(size + *count);
      if (*count == 0) return true;
      if (static_cast<int64_t>(text.size()) > options_.document_bytes_max) {
        return TooLarge(where_, options_);
      }
    }
  }

 private:
  ByteStream* stream_;
  bool html_;
  bool done_ = false;
  std::string where_;
  TextSourceOptions options_;
};

// Hands out a stream in lines. Memory: a block and the current line.
class LineReader {
 public:
  LineReader(ByteStream* stream, std::string where, const TextSourceOptions& options)
      : stream_(stream), where_(std::move(where)), options_(options), block_(1 << 16) {}

  // The next line without its line feed; false at the end.
  Result<bool> Next(std::string* line) {
    line->clear();
    while (true) {
      if (begin_ == end_) {
        begin_ = 0;
        ASSIGN_OR_RETURN(end_, stream_->Read(block_.data(), block_.size()));
        if (end_ == 0) {
          if (!line->empty()) ++number_;
          return !line->empty();
        }
      }
      const char* from = block_.data() + begin_;
      const auto* feed = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
      const size_t count = feed != nullptr ? static_cast<size_t>(feed - from) : end_ - begin_;
      line->append(from, count);
      begin_ += count + (feed != nullptr ? 1 : 0);
      if (static_cast<int64_t>(line->size()) > options_.document_bytes_max) {
        return TooLarge(StrCat(where_, ":", number_ + 1), options_);
      }
      if (feed == nullptr) continue;
      ++number_;
      return true;
    }
  }
  // Of the last line, from 1.
  int64_t number() const { return number_; }

 private:
  ByteStream* stream_;
  std::string where_;
  TextSourceOptions options_;
  std::vector<char> block_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t number_ = 0;
};

void DropCarriageReturn(std::string* line) {
  if (!line->empty() && line->back() == '\r') line->pop_back();
}

class JsonlReader : public RecordReader {
 public:
  JsonlReader(ByteStream* stream, std::string where, const TextSourceOptions& options)
      : lines_(stream, where, options), where_(std::move(where)), options_(options) {}

  Result<bool> Next(Document* document) override {
    do {
      ASSIGN_OR_RETURN(const bool more, lines_.Next(&line_));
      if (!more) return false;
    } while (line_.find_first_not_of(" \t\r") == std::string::npos);
    document->where = StrCat(where_, ":", lines_.number());
    document->html = false;
    RETURN_IF_ERROR(Parse(document));
    return true;
  }

 private:
  Status Error(const Document& document, const std::string& what) const {
    return DataLossError(StrCat(document.where, ": ", what));
  }

  Status Parse(Document* document) {
    simdjson::dom::element root;
    auto error = parser_.parse(line_.data(), line_.size()).get(root);
    if (error == simdjson::UTF8_ERROR) {
      // Not UTF-8, but JSON may still be found in it: in a byte-transparent reading every byte is a
      // character of Latin-1, and the field's bytes are restored afterwards.
      WidenLatin1();
      error = parser_.parse(wide_.data(), wide_.size()).get(root);
      if (error == simdjson::SUCCESS) {
        RETURN_IF_ERROR(Extract(root, document));
        NarrowLatin1(&document->text);
        return OkStatus();
      }
    }
    if (error != simdjson::SUCCESS) {
      const std::string utf8 = Utf8ProblemOfJson(line_);
      return Error(*document, !utf8.empty()
                                  ? utf8
                                  : StrCat("not a JSON object: ", simdjson::error_message(error)));
    }
    return Extract(root, document);
  }

  void WidenLatin1() {
    wide_.clear();
    // A byte that is a character by itself keeps its meaning inside and outside of strings.
    for (const char c : line_) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x80) {
        wide_.push_back(c);
      } else {
        wide_.push_back(static_cast<char>(0xC0 | (byte >> 6)));
        wide_.push_back(static_cast<char>(0x80 | (byte & 0x3F)));
      }
    }
  }

  // Inverse of WidenLatin1 for U+0080 to U+00FF; escapes beyond that stay UTF-8.
  static void NarrowLatin1(std::string* text) {
    size_t to = 0;
    for (size_t i = 0; i < text->size(); ++i) {
      const auto byte = static_cast<unsigned char>((*text)[i]);
      if ((byte == 0xC2 || byte == 0xC3) && i + 1 < text->size()) {
        const auto next = static_cast<unsigned char>((*text)[++i]);
        (*text)[to++] = static_cast<char>((byte & 3) << 6 | (next & 0x3F));
      } else {
        (*text)[to++] = static_cast<char>(byte);
      }
    }
    text->resize(to);
  }

  Status Extract(const simdjson::dom::element& root, Document* document) const {
    simdjson::dom::object object;
    if (root.get_object().get(object) != simdjson::SUCCESS) {
      return Error(*document, "not a JSON object");
    }
    simdjson::dom::element field;
    if (object.at_key(options_.field).get(field) != simdjson::SUCCESS) {
      std::string names;
      for (const auto& pair : object) names += StrCat(names.empty() ? "" : ", ", pair.key);
      return Error(*document, StrCat("no field '", options_.field, "' (fields: ", names,
                                     "); --field names another"));
    }
    std::string_view text;
    if (field.is_null()) {
      document->text.clear();
    } else if (field.get_string().get(text) == simdjson::SUCCESS) {
      document->text = text;
    } else {
      return Error(*document, StrCat("field '", options_.field, "' is not a string"));
    }
    document->id = document->where;
    simdjson::dom::element id;
    int64_t number = 0;
    if (object.at_key("id").get(id) == simdjson::SUCCESS) {
      if (id.get_string().get(text) == simdjson::SUCCESS) {
        document->id = text;
      } else if (id.get_int64().get(number) == simdjson::SUCCESS) {
        document->id = StrCat(number);
      }
    }
    return OkStatus();
  }

  LineReader lines_;
  std::string where_;
  TextSourceOptions options_;
  simdjson::dom::parser parser_;
  std::string line_;
  std::string wide_;
};

// csv: RFC 4180, quotes may hold separators and line breaks. tsv: no quoting, a row is a line.
class TableReader : public RecordReader {
 public:
  TableReader(ByteStream* stream, bool csv, bool found, std::string where,
              const TextSourceOptions& options)
      : lines_(stream, where, options),
        csv_(csv),
        may_lack_text_(found && options.field == TextSourceOptions().field),
        where_(std::move(where)),
        options_(options) {
    const std::string& field = options_.field;
    const auto parsed = std::from_chars(field.data(), field.data() + field.size(), column_);
    numbered_ = parsed.ec == std::errc() && parsed.ptr == field.data() + field.size();
  }

  Result<bool> Next(Document* document) override {
    if (numbered_ && column_ < 1) {
      return InvalidArgumentError(StrCat("--field ", options_.field, ": ", where_,
                                         ": expected the name of a column, or its number from 1"));
    }
    if (!started_ && !numbered_) {
      started_ = true;
      ASSIGN_OR_RETURN(const bool more, NextRow());
      if (!more) return false;
      const auto found = std::find(cells_.begin(), cells_.end(), options_.field);
      if (found == cells_.end() && may_lack_text_) {
        lacks_text_ = true;
        return false;
      }
      if (found == cells_.end()) {
        std::string names;
        for (const std::string& cell : cells_) names += StrCat(names.empty() ? "" : ", ", cell);
        return DataLossError(StrCat(where_, ":", row_line_, ": no column '", options_.field,
                                    "' in the header (", names.substr(0, 200),
                                    "); --field names another, or gives its number from 1"));
      }
      column_ = found - cells_.begin() + 1;
      header_cells_ = cells_.size();
    }
    ASSIGN_OR_RETURN(const bool more, NextRow());
    if (!more) return false;
    document->where = StrCat(where_, ":", row_line_);
    if (column_ > static_cast<int64_t>(cells_.size())) {
      return DataLossError(StrCat(document->where, ": a row of ", cells_.size(),
                                  " columns, expected at least ", column_));
    }
    // A text that was cut at its own commas must not lose what comes after them.
    if (header_cells_ > 0 && cells_.size() > header_cells_) {
      return DataLossError(StrCat(
          document->where, ": a row of ", cells_.size(), " columns, the header has ", header_cells_,
          "; ", csv_ ? "a text with commas needs quotes around it" : "a text must not have tabs"));
    }
    document->id = document->where;
    document->html = false;
    document->text = std::move(cells_[static_cast<size_t>(column_ - 1)]);
    return true;
  }
  bool lacks_text() const override { return lacks_text_; }

 private:
  Result<bool> NextRow() {
    do {
      ASSIGN_OR_RETURN(const bool more, lines_.Next(&line_));
      if (!more) return false;
      if (!csv_) DropCarriageReturn(&line_);
    } while (line_.empty() || line_ == "\r");
    row_line_ = lines_.number();
    cells_.clear();
    if (!csv_) {
      for (size_t begin = 0;;) {
        const size_t tab = line_.find('\t', begin);
        cells_.push_back(line_.substr(begin, tab == std::string::npos ? tab : tab - begin));
        if (tab == std::string::npos) return true;
        begin = tab + 1;
      }
    }
    return SplitCsv();
  }

  Result<bool> SplitCsv() {
    int64_t bytes = 0;
    size_t i = 0;
    while (true) {
      std::string cell;
      if (i < line_.size() && line_[i] == '"') {
        ++i;
        while (true) {
          const size_t quote = line_.find('"', i);
          cell.append(line_, i, quote == std::string::npos ? quote : quote - i);
          if (quote == std::string::npos) {
            bytes += static_cast<int64_t>(line_.size());
            if (bytes > options_.document_bytes_max) {
              return TooLarge(StrCat(where_, ":", row_line_), options_);
            }
            ASSIGN_OR_RETURN(const bool more, lines_.Next(&line_));
            if (!more) {
              return DataLossError(
                  StrCat(where_, ":", row_line_, ": a quote that is opened and never closed"));
            }
            cell.push_back('\n');
            i = 0;
            continue;
          }
          i = quote + 1;
          if (i >= line_.size() || line_[i] != '"') break;
          cell.push_back('"');
          ++i;
        }
      }
      const size_t comma = std::min(line_.find(',', std::min(i, line_.size())), line_.size());
      if (i < line_.size()) {
        cell.append(line_, i, comma - i);
        if (comma == line_.size()) DropCarriageReturn(&cell);
      }
      cells_.push_back(std::move(cell));
      if (comma >= line_.size()) return true;
      i = comma + 1;
    }
  }

  LineReader lines_;
  bool csv_;
  bool may_lack_text_;
  bool lacks_text_ = false;
  std::string where_;
  TextSourceOptions options_;
  bool numbered_ = false;
  bool started_ = false;
  int64_t column_ = 0;       // from 1
  size_t header_cells_ = 0;  // 0: there is no header
  int64_t row_line_ = 0;
  std::string line_;
  std::vector<std::string> cells_;
};

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() > suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

}  // namespace

TextKind TextKindOf(const std::string& name) {
  std::string lower = name;
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (EndsWith(lower, ".tgz")) return {Content::kTar, ".gz"};
  TextKind kind;
  kind.compression = CompressionOf(lower);
  lower.resize(lower.size() - kind.compression.size());
  constexpr std::pair<std::string_view, Content> kSuffixes[] = {
      {".txt", Content::kPlain},    {".md", Content::kPlain},   {".html", Content::kHtml},
      {".htm", Content::kHtml},     {".xhtml", Content::kHtml}, {".jsonl", Content::kJsonl},
      {".ndjson", Content::kJsonl}, {".csv", Content::kCsv},    {".tsv", Content::kTsv},
      {".tar", Content::kTar}};
  for (const auto& [suffix, content] : kSuffixes) {
    if (EndsWith(lower, suffix)) kind.content = content;
  }
  return kind;
}

std::unique_ptr<RecordReader> OpenRecords(ByteStream* stream, Content content,
                                          const std::string& where, bool found,
                                          const TextSourceOptions& options) {
  switch (content) {
    case Content::kPlain:
    case Content::kHtml:
      return std::make_unique<PlainReader>(stream, content == Content::kHtml, where, options);
    case Content::kJsonl:
      return std::make_unique<JsonlReader>(stream, where, options);
    case Content::kCsv:
    case Content::kTsv:
      return std::make_unique<TableReader>(stream, content == Content::kCsv, found, where, options);
    case Content::kOther:
    case Content::kTar:
      break;
  }
  LOG(FATAL) << where << ": not a kind of records";
}

}  // namespace trireme
