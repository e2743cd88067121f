#include "worker/text/html_text.h"

#include <gtest/gtest.h>

#include "cluster/base/rng.h"
#include "cluster/base/status.h"

namespace trireme {
namespace {

std::string Text(std::string_view html) { return HtmlToText(html).value_or("(too deep)"); }

TEST(HtmlTextTest, BlocksBecomeLinesAndParagraphs) {
  EXPECT_EQ(Text("<html><head><title>T</title></head><body><h1>Head</h1><p>One  <b>bold</b>\n"
                 "word.</p><p>Two<br>lines</p><div>a</div><div>b</div></body></html>"),
            "Head\n\nOne bold word.\n\nTwo\nlines\n\na\nb");
  EXPECT_EQ(Text("x&amp;y &lt;z&gt; &eacute;&#20013;&nbsp;!"), "x&y <z> \u00E9\u4E2D\u00A0!");
  EXPECT_EQ(Text("a<span> b</span><i>c</i>"), "a bc");
  EXPECT_EQ(Text(""), "");
}

TEST(HtmlTextTest, ListsKeepMarkersAndNesting) {
  EXPECT_EQ(Text("<p>Do:</p><ul><li><p>one</p></li><li>two<ol start=3><li>x</li><li>y</li></ol>"
                 "</li><li></li></ul>after"),
            "Do:\n\n- one\n- two\n  3. x\n  4. y\n\nafter");
  EXPECT_EQ(Text("<dl><dt>term</dt><dd>meaning</dd></dl>"), "term\nmeaning");
}

TEST(HtmlTextTest, PreformattedTextIsVerbatim) {
  EXPECT_EQ(Text("<p>Run</p><pre>\n$ ls  -l\n\n\tx &lt; y\n</pre><p>then"),
            "Run\n\n$ ls  -l\n\n\tx < y\n\nthen");
}

TEST(HtmlTextTest, TablesOfDataAreRowsAndTablesOfLayoutAreBlocks) {
  EXPECT_EQ(Text("<table><tr><th>name<th>size<tr><td><p>vi</p><td>12</table>"),
            "name | size\nvi | 12");
  EXPECT_EQ(Text("<table><tr><td><h2>Left</h2><p>text</td><td>right</td></tr></table>"),
            "Left\n\ntext\n\nright");
}

TEST(HtmlTextTest, WhatIsNotContentIsDropped) {
  const std::string body = "The content of this page is a sentence that is long enough to count.";
  for (const char* noise :
       {"<script>var x = '<p>no</p>';</script>",
        "<style>p {}</style>",
        "<nav>Home News</nav>",
        "<aside>Also read</aside>",
        "<footer>(c) 2020</footer>",
        "<header>Site name</header>",
        "<form><input><button>Go</button><p>Search</p></form>",
        "<noscript>Enable scripts</noscript>",
        "<div class='main-menu'>Home</div>",
        "<div id=cookieBanner>We use them</div>",
        "<div role=navigation>Home</div>",
        "<p style='display: none'>hidden</p>",
        "<p hidden>hidden</p>",
        "<span aria-hidden=true>x</span>",
        "<!-- comment -->",
        "<svg><text>drawn</text></svg>",
        "<textarea>typed</textarea>",
        "<select><option>one</select>",
        "<iframe>frame</iframe>",
        "<ul><li><a href=1>News</a><li><a href=2>Sport</a><li><a href=3>Weather</a></ul>",
        "<div class=share-buttons>Tweet</div>"}) {
    EXPECT_EQ(Text("<p>" + body + "</p>" + noise), body) << noise;
  }
}

TEST(HtmlTextTest, ContentSurvivesNamesAndElementsOfNoise) {
  const std::string body = "The content of this page is a sentence that is long enough to count.";
  for (const auto& [open, close] : std::initializer_list<std::pair<const char*, const char*>>{
           {"<body class='has-sidebar no-menu'>", "</body>"},
           {"<div class='page-with-sidebar'>", "</div>"},
           {"<form id=aspnetForm>", "</form>"},
           {"<div class='label-hidden field'>", "</div>"},
           {"<div class=sidebar>", "</div>"}}) {
    EXPECT_EQ(Text(StrCat(open, "<p>", body, "</p>", close)), body) << open;
  }
  EXPECT_EQ(Text("<article><header><h1>Title</h1></header><p>" + body + "</p></article>"),
            "Title\n\n" + body);
}

TEST(HtmlTextTest, TheArticleIsPreferredToWhatSurroundsIt) {
  const std::string body = "The content of this page is a sentence that is long enough to count.";
  EXPECT_EQ(Text("<div>Site name</div><article><p>" + body + "</article><div>Read on</div>"), body);
}

TEST(HtmlTextTest, DeepPagesAreRefusedAndScriptsAreNotMarkup) {
  std::string deep;
  for (int i = 0; i < 300000; ++i) deep += "<div>";
  EXPECT_EQ(HtmlToText(deep), std::nullopt);
  std::string script = "<script>";
  for (int i = 0; i < 10000; ++i) script += "if(a<b)";
  EXPECT_EQ(Text(script + "</script><p>text"), "text");
  std::string flat;
  for (int i = 0; i < 10000; ++i) flat += "<p>a<br>";
  EXPECT_NE(HtmlToText(flat), std::nullopt);
}

// Random mutations of a page: never a crash.
TEST(HtmlTextTest, MutatedPagesNeverCrash) {
  const std::string page =
      "<!DOCTYPE html><html><head><title>t</title></head><body><table><tr><td>a<table><tr><td>b"
      "</table><ul><li>x<ol><li>y</ol></ul><pre>\n p </pre><select><option>o</select><svg><g/>"
      "<foreignObject><p>f</p></foreignObject></svg><p><b><i>z</b></i>&amp;&#x1F600;&bogus;";
  const CounterRng rng(5, RngUse::kTest, 3);
  uint64_t draw = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bad = page;
    const uint64_t changes = 1 + rng.Below(6, draw++);
    for (uint64_t i = 0; i < changes; ++i) {
      const uint64_t at = rng.Below(bad.size(), draw++);
      switch (rng.Below(3, draw++)) {
        case 0:
          bad[at] = static_cast<char>(rng.Below(128, draw++));
          break;
        case 1:
          bad.erase(at, 1 + rng.Below(20, draw++));
          break;
        default:
          bad.insert(at, bad.substr(rng.Below(bad.size(), draw++), 1 + at % 30));
      }
      if (bad.empty()) bad = "<";
    }
    HtmlToText(bad);
  }
}

}  // namespace
}  // namespace trireme
