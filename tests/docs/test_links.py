"""Every link of the pages leads somewhere: to a file of the repository, and to a heading in it."""

import pathlib
import re

import pytest
from pymdownx.slugs import slugify

from tests.docs.pages import FENCE, NOTEBOOKS, PAGES, ROOT, text_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
CALL = re.compile(r"`[^`\n]*\]\([^`\n]*`")  # code that looks like a link
slug = slugify(case="lower")


def anchors(page):
  """Anchors of a page's headings, numbered as GitHub and the site number those that come again."""
  found, seen = set(), {}
  for line in FENCE.sub("", text_of(page)).splitlines():
    if match := re.match(r"#+ +(.*)", line):
      name = slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", ""), "-")
      seen[name] = seen.get(name, -1) + 1
      found.add(f"{name}-{seen[name]}" if seen[name] else name)
  return found


def dead(page, text):
  """Links of a text that lead nowhere from the page's place."""
  out = []
  for target in LINK.findall(CALL.sub("", FENCE.sub("", text))):
    path, _, anchor = target.partition("#")
    if "://" in target:
      continue
    file = (ROOT / page).parent / path if path else ROOT / page
    there = file.resolve().is_relative_to(ROOT) and file.exists()
    if not there or (anchor and anchor not in anchors(str(file.resolve().relative_to(ROOT)))):
      out.append(target)
  return out


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_links_lead_somewhere(page):
  assert dead(page, text_of(page)) == []


def test_dead_links_are_found():
  text = (
    "[a](nowhere.md), [b](../README.md#results), [c](../README.md#nothing), [d](#own), [e](../../etc/passwd)"
  )
  assert dead("docs/faq.md", text) == ["nowhere.md", "../README.md#nothing", "#own", "../../etc/passwd"]


def test_addresses_are_few_and_encrypted():
  for page in PAGES:
    addresses = [target for target in LINK.findall(text_of(page)) if "://" in target]
    assert all(address.startswith("https://") for address in addresses), page


def test_every_page_is_among_all_pages():
  contents = {
    str(((ROOT / "docs" / target.partition("#")[0]).resolve()).relative_to(ROOT))
    for target in LINK.findall(text_of("docs/contents.md"))
    if "://" not in target
  }
  expected = {page for page in PAGES if page.startswith("docs/")} - {"docs/contents.md"}
  assert expected - contents == set()
  assert set(NOTEBOOKS) - contents == set()


def test_the_first_screen_is_one():
  text = text_of("README.md")
  assert len(text[: text.index("## Results")].splitlines()) <= 65


def test_results_of_the_readme_are_those_of_the_page():
  """Figures stand in one wording: what is on the README is on docs/results.md, paragraph by paragraph."""
  text = text_of("README.md")
  own = text[text.index("## Results\n") + len("## Results\n") :].strip().split("\n\n")
  page = plain(text_of("docs/results.md"))
  assert [part for part in own[:-1] if plain(part) not in page] == []
  assert "docs/results.md" in own[-1]


def plain(text):
  """Words alone; links by their text, without folders."""
  text = re.sub(r"\[([^\]]*)\]\([^)]*\)", lambda m: pathlib.PurePath(m[1]).name, text)
  return " ".join(text.split())
