#include "worker/text/html_noise.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {
namespace {

// Never text for a reader.
bool IsMachinery(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_HEAD:
    case GUMBO_TAG_TITLE:
    case GUMBO_TAG_SCRIPT:
    case GUMBO_TAG_STYLE:
    case GUMBO_TAG_NOSCRIPT:
    case GUMBO_TAG_TEMPLATE:
    case GUMBO_TAG_IFRAME:
    case GUMBO_TAG_OBJECT:
    case GUMBO_TAG_EMBED:
    case GUMBO_TAG_CANVAS:
    case GUMBO_TAG_SVG:
    case GUMBO_TAG_AUDIO:
    case GUMBO_TAG_VIDEO:
    case GUMBO_TAG_MAP:
    case GUMBO_TAG_BUTTON:
    case GUMBO_TAG_SELECT:
    case GUMBO_TAG_DATALIST:
    case GUMBO_TAG_TEXTAREA:
    case GUMBO_TAG_INPUT:
    case GUMBO_TAG_RT:
    case GUMBO_TAG_RP:
    case GUMBO_TAG_NOFRAMES:
      return true;
    default:
      return false;
  }
}

std::string_view Attribute(const GumboNode* element, const char* name) {
  const GumboAttribute* found = gumbo_get_attribute(&element->v.element.attributes, name);
  return found != nullptr ? std::string_view(found->value) : std::string_view();
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

bool IsHidden(const GumboNode* element) {
  if (gumbo_get_attribute(&element->v.element.attributes, "hidden") != nullptr) return true;
  if (Attribute(element, "aria-hidden") == "true") return true;
  std::string style = Lower(Attribute(element, "style"));
  style.erase(std::remove(style.begin(), style.end(), ' '), style.end());
  return style.find("display:none") != std::string::npos ||
         style.find("visibility:hidden") != std::string::npos;
}

bool HasRoleOfNoise(const GumboNode* element) {
  static constexpr std::array kRoles = {"navigation",    "banner",  "contentinfo", "search",
                                        "complementary", "dialog",  "alertdialog", "alert",
                                        "menu",          "menubar", "toolbar",     "tablist"};
  const std::string role = Lower(Attribute(element, "role"));
  return !role.empty() && std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end();
}

using Words = std::span<const std::string_view>;

bool Contains(Words words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// Noise wherever they stand in a name: "post-share-buttons".
constexpr std::array<std::string_view, 46> kNoiseWords = {
    "ad",         "ads",         "advert",   "advertisement", "advertising", "advertorial",
    "breadcrumb", "breadcrumbs", "captcha",  "comments",      "consent",     "cookie",
    "cookies",    "disqus",      "footer",   "gdpr",          "masthead",    "menu",
    "modal",      "nav",         "navbar",   "navbox",        "navfooter",   "navheader",
    "navigation", "newsletter",  "outbrain", "pager",         "pagination",  "paywall",
    "popup",      "printfooter", "promo",    "related",       "share",       "sharing",
    "sharedaddy", "sidebar",     "signup",   "social",        "sponsor",     "sponsored",
    "subscribe",  "taboola",     "toc",      "toolbar"};
// Noise only as the whole name; as part of one they also describe content ("label-hidden").
constexpr std::array<std::string_view, 15> kNoiseNames = {
    "banner",    "byline", "comment", "copyright",   "hidden", "legalnotice", "login", "meta",
    "promotion", "print",  "respond", "recommended", "skip",   "tags",        "widget"};
// "page-with-sidebar" is the page, not the sidebar.
constexpr std::array<std::string_view, 8> kDescribing = {"with", "w",   "has",     "no",
                                                         "one",  "two", "without", "not"};

// Splits "postShare_buttons" into post, share, buttons.
std::vector<std::string> WordsOf(std::string_view name) {
  std::vector<std::string> words(1);
  for (size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    const bool upper = c >= 'A' && c <= 'Z';
    const bool letter = upper || (c >= 'a' && c <= 'z');
    const bool after_lower = i > 0 && name[i - 1] >= 'a' && name[i - 1] <= 'z';
    if ((!letter || (upper && after_lower)) && !words.back().empty()) words.emplace_back();
    if (letter) words.back().push_back(upper ? static_cast<char>(c - 'A' + 'a') : c);
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

// `names`: the value of a class or id attribute.
bool NamesNoise(std::string_view names) {
  while (!names.empty()) {
    const size_t end = std::min(names.find_first_of(" \t\n\r\f"), names.size());
    const std::vector<std::string> words = WordsOf(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
    if (words.size() == 1 && Contains(kNoiseNames, words[0])) return true;
    for (size_t i = 0; i < words.size(); ++i) {
      if (i > 0 && Contains(kDescribing, words[i - 1])) continue;
      if (Contains(kNoiseWords, words[i])) return true;
    }
  }
  return false;
}

// Menus, lists of teasers and tables of contents. Cells and tables of data also hold links: of them
// more is asked.
bool IsBlockOfLinks(const GumboNode* element, const HtmlWeight& weight) {
  switch (element->v.element.tag) {
    case GUMBO_TAG_UL:
    case GUMBO_TAG_OL:
    case GUMBO_TAG_DL:
    case GUMBO_TAG_DIV:
    case GUMBO_TAG_SECTION:
    case GUMBO_TAG_P:
      return weight.links >= 3 && weight.link_text * 10 > weight.text * 7;
    case GUMBO_TAG_TABLE:
    case GUMBO_TAG_TD:
      return weight.links >= 5 && weight.link_text * 10 > weight.text * 9;
    default:
      return false;
  }
}

}  // namespace

HtmlNoise::HtmlNoise(const GumboNode* root) : total_(Weigh(root, false)) {}

HtmlWeight HtmlNoise::WeightOf(const GumboNode* node) const {
  const auto found = weights_.find(node);
  return found != weights_.end() ? found->second : HtmlWeight();
}

HtmlWeight HtmlNoise::Weigh(const GumboNode* node, bool in_link) {
  HtmlWeight weight;
  if (node->type == GUMBO_NODE_TEXT || node->type == GUMBO_NODE_CDATA) {
    for (const char* c = node->v.text.text; *c != 0; ++c) weight.text += *c > ' ' || *c < 0 ? 1 : 0;
    if (in_link) weight.link_text = weight.text;
    return weight;
  }
  if (node->type != GUMBO_NODE_ELEMENT || IsMachinery(node->v.element.tag)) return weight;
  // An <a> without href is the target of links, not one.
  const bool link = node->v.element.tag == GUMBO_TAG_A && !Attribute(node, "href").empty();
  const GumboVector& children = node->v.element.children;
  for (unsigned i = 0; i < children.length; ++i) {
    const HtmlWeight below =
        Weigh(static_cast<const GumboNode*>(children.data[i]), in_link || link);
    weight.text += below.text;
    weight.link_text += below.link_text;
    weight.links += below.links;
  }
  weight.links += link ? 1 : 0;
  weights_[node] = weight;
  const std::string_view role = Attribute(node, "role");
  const GumboTag tag = node->v.element.tag;
  if (tag == GUMBO_TAG_ARTICLE || tag == GUMBO_TAG_MAIN || role == "main" || role == "article") {
    contents_.push_back(node);
  }
  return weight;
}

const GumboNode* HtmlNoise::ContentOf(const GumboNode* root) const {
  const int64_t all = total_.text - total_.link_text;
  const GumboNode* content = nullptr;
  int64_t most = 0;
  for (const GumboNode* node : contents_) {
    const HtmlWeight weight = WeightOf(node);
    const int64_t text = weight.text - weight.link_text;
    // An article inside of main comes first here and is the closer fit, unless it is one of many.
    if (text * 10 > all * 3 && text * 10 > most * 13) {
      most = text;
      content = node;
    }
  }
  return content != nullptr ? content : root;
}

bool HtmlNoise::HoldsMuch(const GumboNode* element) const {
  const HtmlWeight weight = WeightOf(element);
  return weight.text * 10 > total_.text * 4 ||
         (weight.text - weight.link_text) * 10 > (total_.text - total_.link_text) * 4;
}

bool HtmlNoise::IsNoise(const GumboNode* element, bool in_content) const {
  const GumboTag tag = element->v.element.tag;
  if (IsMachinery(tag)) return true;
  if (tag == GUMBO_TAG_BODY || tag == GUMBO_TAG_HTML) return false;
  if (tag == GUMBO_TAG_MAIN || tag == GUMBO_TAG_ARTICLE) return false;
  if (tag == GUMBO_TAG_NAV || IsHidden(element)) return true;
  if (HoldsMuch(element)) return false;
  switch (tag) {
    case GUMBO_TAG_ASIDE:
    case GUMBO_TAG_FOOTER:
    case GUMBO_TAG_FORM:
      return true;
    case GUMBO_TAG_HEADER:
      if (!in_content) return true;
      break;
    default:
      break;
  }
  if (HasRoleOfNoise(element)) return true;
  if (NamesNoise(Attribute(element, "class")) || NamesNoise(Attribute(element, "id"))) return true;
  return IsBlockOfLinks(element, WeightOf(element));
}

}  // namespace trireme
