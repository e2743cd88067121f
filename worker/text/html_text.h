// The text of an HTML page, in blocks, without what surrounds the content.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trireme {

// Renders valid UTF-8 HTML as plain text:
// - Dropped: head, scripts, styles, embedded media, form controls; nav, aside, footer, header
// (outside
//   of article and main), forms; elements hidden or with a role of navigation, banner, contentinfo,
//   search, ...; elements whose class or id names navigation, menus, sharing, cookies, comments,
//   ...; blocks that consist of links. The last two and forms stay where they hold much of the
//   page.
// - Kept: blocks as lines, paragraphs and headings with blank lines between; "- " and "1. " before
//   list items; <br>; table rows as lines with " | " between cells; <pre> verbatim.
// Empty where the page has no text; nullopt where its elements nest too deeply to be parsed.
std::optional<std::string> HtmlToText(std::string_view html);

}  // namespace trireme
