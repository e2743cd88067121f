// Which elements of a page are not its content.
#pragma once

#include <gumbo.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace trireme {

// Visible text under an element, in bytes without white space, and the part of it inside links.
struct HtmlWeight {
  int64_t text = 0;
  int64_t link_text = 0;
  int64_t links = 0;
};

class HtmlNoise {
 public:
  // Weighs all elements under `root`, which stays valid.
  explicit HtmlNoise(const GumboNode* root);

  // True if `element` and all below it is to be left out. `in_content`: inside article or main.
  bool IsNoise(const GumboNode* element, bool in_content) const;
  // Where the page's content is: the only <article> or <main> that holds a good part of its text,
  // else `root`.
  const GumboNode* ContentOf(const GumboNode* root) const;
  HtmlWeight WeightOf(const GumboNode* node) const;

 private:
  HtmlWeight Weigh(const GumboNode* node, bool in_link);
  // Whether the element holds so much of the page that leaving it out would be wrong.
  bool HoldsMuch(const GumboNode* element) const;

  std::unordered_map<const GumboNode*, HtmlWeight> weights_;
  std::vector<const GumboNode*> contents_;  // <article>, <main> and elements with their role
  HtmlWeight total_;
};

}  // namespace trireme
