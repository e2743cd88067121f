#include "worker/text/html_text.h"

#include <gumbo.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "worker/text/html_noise.h"

namespace trireme {
namespace {

// Parser and renderer recurse: deeper pages are refused before they are parsed.
constexpr int64_t kDepthMax = 4000;

// Whether the tag name at `at` is `name`, in any case.
bool NameIs(std::string_view html, size_t at, std::string_view name) {
  if (html.size() - at < name.size()) return false;
  for (size_t i = 0; i < name.size(); ++i) {
    if ((html[at + i] | 0x20) != name[i]) return false;
  }
  const size_t end = at + name.size();
  return end == html.size() || std::isalnum(static_cast<unsigned char>(html[end])) == 0;
}

// Elements that never hold others, or that a following one of their kind closes.
bool NestsNothing(std::string_view html, size_t at) {
  static constexpr std::array<std::string_view, 24> kNames = {
      "br",  "img",   "hr",     "input", "meta", "link", "area",  "base",
      "col", "embed", "source", "track", "wbr",  "p",    "li",    "td",
      "th",  "tr",    "option", "dt",    "dd",   "a",    "param", "tbody"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](std::string_view name) { return NameIs(html, at, name); });
}

// An upper bound, near enough, of how deep the elements nest.
int64_t EstimateDepth(std::string_view html) {
  int64_t depth = 0;
  int64_t deepest = 0;
  for (size_t at = html.find('<'); at != std::string_view::npos && at + 1 < html.size();
       at = html.find('<', at + 1)) {
    if (html[at + 1] == '/') {
      if (at + 2 < html.size() && !NestsNothing(html, at + 2))
        depth = std::max<int64_t>(0, depth - 1);
      continue;
    }
    if (std::isalpha(static_cast<unsigned char>(html[at + 1])) == 0) continue;
    for (const std::string_view raw : {"script", "style"}) {
      if (!NameIs(html, at + 1, raw)) continue;
      // Its content is not markup. The end tag found here is met again by the loop.
      size_t end = html.find("</", at);
      while (end != std::string_view::npos && !NameIs(html, end + 2, raw)) {
        end = html.find("</", end + 2);
      }
      if (end == std::string_view::npos) return deepest;
      at = end - 1;
      break;
    }
    if (NestsNothing(html, at + 1)) continue;
    deepest = std::max(deepest, ++depth);
  }
  return deepest;
}

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f'; }

// Newlines that an element asks for before and after itself; 0: it stands in a line.
int BreaksAround(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_P:
    case GUMBO_TAG_H1:
    case GUMBO_TAG_H2:
    case GUMBO_TAG_H3:
    case GUMBO_TAG_H4:
    case GUMBO_TAG_H5:
    case GUMBO_TAG_H6:
    case GUMBO_TAG_BLOCKQUOTE:
    case GUMBO_TAG_PRE:
    case GUMBO_TAG_TABLE:
    case GUMBO_TAG_UL:
    case GUMBO_TAG_OL:
    case GUMBO_TAG_DL:
    case GUMBO_TAG_FIGURE:
    case GUMBO_TAG_HR:
      return 2;
    case GUMBO_TAG_DIV:
    case GUMBO_TAG_LI:
    case GUMBO_TAG_TR:
    case GUMBO_TAG_DT:
    case GUMBO_TAG_DD:
    case GUMBO_TAG_ADDRESS:
    case GUMBO_TAG_ARTICLE:
    case GUMBO_TAG_SECTION:
    case GUMBO_TAG_MAIN:
    case GUMBO_TAG_HEADER:
    case GUMBO_TAG_FOOTER:
    case GUMBO_TAG_ASIDE:
    case GUMBO_TAG_FORM:
    case GUMBO_TAG_FIELDSET:
    case GUMBO_TAG_DETAILS:
    case GUMBO_TAG_SUMMARY:
    case GUMBO_TAG_CAPTION:
    case GUMBO_TAG_FIGCAPTION:
    case GUMBO_TAG_TD:
    case GUMBO_TAG_TH:
    case GUMBO_TAG_CENTER:
    case GUMBO_TAG_BODY:
      return 1;
    default:
      return 0;
  }
}

class Renderer {
 public:
  explicit Renderer(const GumboNode* root) : noise_(root) {}

  std::string Render(const GumboNode* root) {
    const GumboNode* content = noise_.ContentOf(root);
    Node(content, content != root);
    return std::move(out_);
  }

 private:
  void Node(const GumboNode* node, bool in_content) {
    switch (node->type) {
      case GUMBO_NODE_TEXT:
      case GUMBO_NODE_CDATA:
      case GUMBO_NODE_WHITESPACE:
        Text(node->v.text.text);
        break;
      case GUMBO_NODE_ELEMENT:
        if (!noise_.IsNoise(node, in_content)) Element(node, in_content);
        break;
      default:
        break;
    }
  }

  void Children(const GumboNode* element, bool in_content) {
    const GumboVector& children = element->v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      Node(static_cast<const GumboNode*>(children.data[i]), in_content);
    }
  }

  void Element(const GumboNode* element, bool in_content) {
    const GumboTag tag = element->v.element.tag;
    in_content = in_content || tag == GUMBO_TAG_ARTICLE || tag == GUMBO_TAG_MAIN;
    int breaks = BreaksAround(tag);
    if (in_data_table_ && (tag == GUMBO_TAG_TD || tag == GUMBO_TAG_TH)) breaks = 0;
    // Lists stay together: no blank lines between and inside their items.
    if (list_depth_ > 0 && tag != GUMBO_TAG_PRE) breaks = std::min(breaks, 1);
    Break(breaks);
    switch (tag) {
      case GUMBO_TAG_BR:
        LineBreak();
        break;
      case GUMBO_TAG_PRE:
        ++pre_depth_;
        Children(element, in_content);
        --pre_depth_;
        break;
      case GUMBO_TAG_UL:
      case GUMBO_TAG_OL:
        List(element, in_content);
        break;
      case GUMBO_TAG_TABLE:
        Table(element, in_content);
        break;
      case GUMBO_TAG_TD:
      case GUMBO_TAG_TH:
        Cell(element, in_content);
        break;
      case GUMBO_TAG_TR:
        first_cell_ = true;
        Children(element, in_content);
        break;
      default:
        Children(element, in_content);
    }
    Break(breaks);
  }

  void List(const GumboNode* list, bool in_content) {
    ++list_depth_;
    const GumboAttribute* start = gumbo_get_attribute(&list->v.element.attributes, "start");
    int number = start != nullptr ? std::atoi(start->value) : 1;
    const GumboVector& children = list->v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      const auto* child = static_cast<const GumboNode*>(children.data[i]);
      const bool item = child->type == GUMBO_NODE_ELEMENT && child->v.element.tag == GUMBO_TAG_LI &&
                        noise_.WeightOf(child).text > 0;
      if (item && !noise_.IsNoise(child, in_content)) {
        Break(1);
        marker_ = std::string(2 * static_cast<size_t>(list_depth_ - 1), ' ');
        marker_ += list->v.element.tag == GUMBO_TAG_OL ? std::to_string(number) + ". " : "- ";
        ++number;
      }
      Node(child, in_content);
      if (item) marker_.clear();
    }
    --list_depth_;
  }

  // Tables that arrange a page rather than data hold its blocks: their cells are read one by one.
  static bool ArrangesPage(const GumboNode* node) {
    const GumboVector& children = node->v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      const auto* child = static_cast<const GumboNode*>(children.data[i]);
      if (child->type != GUMBO_NODE_ELEMENT) continue;
      switch (child->v.element.tag) {
        case GUMBO_TAG_TABLE:
        case GUMBO_TAG_H1:
        case GUMBO_TAG_H2:
        case GUMBO_TAG_H3:
        case GUMBO_TAG_FORM:
        case GUMBO_TAG_ARTICLE:
          return true;
        default:
          if (ArrangesPage(child)) return true;
      }
    }
    return false;
  }

  void Table(const GumboNode* table, bool in_content) {
    const bool outer = in_data_table_;
    in_data_table_ = outer || !ArrangesPage(table);
    Children(table, in_content);
    in_data_table_ = outer;
  }

  void Cell(const GumboNode* cell, bool in_content) {
    if (!in_data_table_) {
      Children(cell, in_content);
      return;
    }
    if (!first_cell_) cell_separators_ += 1;
    first_cell_ = false;
    ++cell_depth_;
    Children(cell, in_content);
    --cell_depth_;
  }

  // At least `count` line ends before what comes next; in a cell of data a space.
  void Break(int count) {
    if (count == 0) return;
    if (cell_depth_ > 0) {
      space_ = true;
    } else if (marker_.empty()) {
      breaks_ = std::max(breaks_, count);
    }
  }

  void LineBreak() {
    if (cell_depth_ > 0) {
      space_ = true;
    } else if (pre_depth_ > 0) {
      Verbatim("\n");
    } else {
      breaks_ = std::min(breaks_ + 1, 2);
      cell_separators_ = 0;
    }
  }

  // Puts out what waits before text.
  void Flush() {
    if (!out_.empty() && breaks_ > 0) {
      while (!out_.empty() && out_.back() == ' ') out_.pop_back();
      size_t ends = 0;
      while (ends < out_.size() && out_[out_.size() - 1 - ends] == '\n') ++ends;
      for (; ends < static_cast<size_t>(breaks_); ++ends) out_.push_back('\n');
    } else if (cell_separators_ > 0) {
      for (; cell_separators_ > 0; --cell_separators_) out_ += " | ";
    } else if (space_ && !out_.empty() && out_.back() != '\n' && out_.back() != ' ') {
      out_.push_back(' ');
    }
    if (breaks_ > 0) cell_separators_ = 0;
    breaks_ = 0;
    cell_separators_ = 0;
    space_ = false;
    out_ += marker_;
    marker_.clear();
  }

  void Verbatim(std::string_view text) {
    Flush();
    out_ += text;
  }

  void Text(std::string_view text) {
    if (pre_depth_ > 0 && cell_depth_ == 0) {
      if (!text.empty()) Verbatim(text);
      return;
    }
    for (size_t i = 0; i < text.size();) {
      if (IsSpace(text[i])) {
        space_ = true;
        ++i;
        continue;
      }
      size_t end = i;
      while (end < text.size() && !IsSpace(text[end])) ++end;
      Flush();
      out_.append(text, i, end - i);
      i = end;
    }
  }

  HtmlNoise noise_;
  std::string out_;
  std::string marker_;  // of a list item whose text has not begun
  int breaks_ = 0;
  int cell_separators_ = 0;
  bool space_ = false;
  bool in_data_table_ = false;
  bool first_cell_ = true;
  int cell_depth_ = 0;
  int pre_depth_ = 0;
  int list_depth_ = 0;
};

struct DestroyOutput {
  void operator()(GumboOutput* output) const {
    gumbo_destroy_output(&kGumboDefaultOptions, output);
  }
};

}  // namespace

std::optional<std::string> HtmlToText(std::string_view html) {
  if (EstimateDepth(html) > kDepthMax) return std::nullopt;
  const std::unique_ptr<GumboOutput, DestroyOutput> output(
      gumbo_parse_with_options(&kGumboDefaultOptions, html.data(), html.size()));
  return Renderer(output->root).Render(output->root);
}

}  // namespace trireme
