"""The chat page in a real browser: page.py <imp-server> <model> <chromium>.

The page comes from the real server, with its headers. Answers are the real model's where the test
is about streaming, stopping or errors of the server, and scripted where it is about what an answer
looks like.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest
import urllib.request

from playwright.sync_api import expect, sync_playwright

SERVER, MODEL = sys.argv[1:3]
CHROMIUM = shutil.which(sys.argv[3])
ALIAS = "the-model"
ANSWERS = "**/v1/chat/completions"


class Server:
    """The server on a free port."""

    def __init__(self, *options):
        command = [SERVER, "--model", MODEL, "--port", "0", "--gpu-layers", "0", "--alias", ALIAS, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            found = re.search(r"listening on (http://\S+)", line)
            self.url = found.group(1) + "/" if found else self.url
            if line.endswith("ready\n"):
                self.rest = threading.Thread(target=self.process.stderr.read, daemon=True)
                self.rest.start()
                return
        raise SystemExit("the server did not start")

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "metrics").read().decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))

    def end(self):
        self.process.terminate()
        status = self.process.wait(60)
        self.rest.join()
        self.process.stderr.close()
        return status


def delta(**fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def end(reason="stop"):
    timings = {"predicted_n": 212, "predicted_per_second": 48.31}
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "timings": timings}


def events(*chunks, done=True):
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return text + ("data: [DONE]\n\n" if done else "")


def contrast(one, other):
    """WCAG's contrast of two CSS colours."""
    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.end)
        cls.playwright = sync_playwright().start()
        cls.addClassCleanup(cls.playwright.stop)
        cls.browser = cls.playwright.chromium.launch(executable_path=CHROMIUM)
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.context = None
        self.open()

    def tearDown(self):
        self.context.close()
        self.assertEqual(self.problems, [], "the console is silent and no request leaves for elsewhere")

    def open(self, url=None, **options):
        """Opens the page in a browser without a past."""
        if self.context:
            self.context.close()
        url = url or self.server.url
        self.problems, self.sent = [], []
        self.context = self.browser.new_context(**options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url.rstrip("/"))
        self.page = page = self.context.new_page()
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.console(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requested(request, url))
        page.goto(url)

    def console(self, text):
        if not text.startswith("Failed to load resource"):  # an answer that says no, which the page shows
            self.problems.append(text)

    def requested(self, request, url):
        if not request.url.startswith((url, "data:")):
            self.problems.append("a request to " + request.url)
        if request.url.endswith("/v1/chat/completions"):
            self.sent.append(json.loads(request.post_data))

    def script(self, *chunks, status=200, content_type="text/event-stream", **more):
        """From now on answers are these chunks, or this body."""
        body = events(*chunks, **more) if status == 200 else json.dumps(chunks[0])
        self.page.unroute(ANSWERS)
        self.page.route(ANSWERS, lambda route: route.fulfill(status=status, content_type=content_type, body=body))

    def say(self, text):
        self.page.locator("#prompt").fill(text)
        self.page.locator("#prompt").press("Enter")

    def answer(self):
        return self.page.locator(".answer").last

    def ended(self):
        expect(self.page.locator("#send")).to_be_visible()

    def settings(self, **values):
        self.page.get_by_role("button", name="Settings").click()
        for name, value in values.items():
            self.page.locator("#" + name).fill(str(value))
        self.page.get_by_role("button", name="Done").click()
        expect(self.page.locator("#settings")).not_to_be_visible()

    # ---- the real model

    def test_the_model_is_shown(self):
        expect(self.page.locator("#model")).to_have_text(ALIAS)
        expect(self.page.locator("#hint")).to_contain_text("8,192 tokens")
        expect(self.page).to_have_title(ALIAS + " - imp")
        expect(self.page.locator("#prompt")).to_be_focused()

    def test_an_answer_streams_in(self):
        self.settings(temperature=0, max_tokens=40)
        self.page.evaluate("""() => {
            const chat = document.getElementById("chat");
            window.lengths = new Set();
            const look = () => window.lengths.add(chat.querySelector(".markdown")?.textContent.length);
            new MutationObserver(look).observe(chat, { subtree: true, childList: true, characterData: true });
        }""")
        self.say("Tell a very long story.")
        expect(self.page.get_by_role("button", name="Stop")).to_be_visible()
        self.ended()
        self.assertGreater(self.page.evaluate("window.lengths.size"), 4, "the text grows while it comes")
        expect(self.answer().locator(".note")).to_have_text(
            re.compile(r"^40 tokens · [\d.]+ tokens/s · cut off: the longest answer was reached$"))
        expect(self.page.locator("#prompt")).to_be_focused()
        self.say("Go on.")
        self.ended()
        roles = [message["role"] for message in self.sent[1]["messages"]]
        self.assertEqual(roles, ["user", "assistant", "user"])

    def test_stop_ends_the_answer_at_the_server(self):
        self.settings(temperature=0, max_tokens=4000)
        self.say("Tell a very long story.")
        expect(self.answer().locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"))
        self.page.get_by_role("button", name="Stop").click()
        expect(self.answer().locator(".note")).to_have_text("stopped")
        self.ended()
        for _ in range(200):
            if self.server.metric("imp_answers_running") == 0:
                break
            time.sleep(0.05)
        self.assertEqual(self.server.metric("imp_answers_running"), 0)
        text = self.answer().locator(".markdown").inner_text()
        self.say("Go on.")
        expect(self.page.locator(".answer")).to_have_count(2)
        self.page.keyboard.press("Escape")
        self.ended()
        self.assertEqual(self.sent[1]["messages"][1]["content"].split()[:2], text.split()[:2])

    def test_what_the_server_says_against_a_request_is_shown_in_place(self):
        self.say("word " * 9000)
        expect(self.answer().locator(".failure p")).to_contain_text("8192")
        expect(self.answer().locator(".below")).not_to_be_visible()
        self.answer().get_by_role("button", name="New chat").click()
        expect(self.page.locator(".turn")).to_have_count(0)
        expect(self.page.locator("#welcome")).to_be_visible()

    def test_a_server_with_a_key_asks_for_it(self):
        server = Server("--api-key", "secret")
        try:
            self.open(server.url)
            expect(self.page.locator("#model")).to_have_text("needs an API key")
            self.say("Hi")
            expect(self.answer().locator(".failure")).to_be_visible()
            self.answer().get_by_role("button", name="Enter the API key").click()
            expect(self.page.locator("#key")).to_be_focused()
            self.page.locator("#key").fill("secret")
            self.page.locator("#key").press("Enter")
            expect(self.page.locator("#model")).to_have_text(ALIAS)
            kept = self.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
            self.assertNotIn("secret", kept)
            self.settings(max_tokens=4)
            self.say("Hi")
            expect(self.answer().locator(".note")).to_contain_text("tokens/s")
            self.page.reload()
            expect(self.page.locator("#model")).to_have_text("needs an API key")
            expect(self.page.locator("#key")).to_have_value("")
        finally:
            server.end()

    def test_a_server_that_is_gone_is_told(self):
        server = Server()
        self.open(server.url)
        expect(self.page.locator("#model")).to_have_text(ALIAS)
        self.say("Tell a very long story.")
        expect(self.answer().locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"))
        server.process.kill()
        server.end()
        expect(self.answer().locator(".failure p")).to_contain_text("connection")
        expect(self.answer().locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"))
        self.say("Are you there?")
        expect(self.answer().locator(".failure p")).to_contain_text("cannot be reached")

    # ---- asking

    def test_enter_sends_and_shift_enter_breaks_the_line(self):
        self.script(delta(content="ok"), end())
        box = self.page.locator("#prompt")
        low = box.bounding_box()["height"]
        box.press("Enter")
        box.fill("   ")
        box.press("Enter")
        self.assertEqual(self.sent, [])
        box.fill("one")
        box.press("Shift+Enter")
        box.press_sequentially("two")
        self.assertGreater(box.bounding_box()["height"], low, "the box grows")
        box.press("Enter")
        self.ended()
        expect(box).to_have_value("")
        self.assertEqual(self.sent[0]["messages"], [{"role": "user", "content": "one\ntwo"}])
        self.assertEqual(self.page.locator(".user .text").inner_text(), "one\ntwo")

    def test_settings_are_sent_and_kept(self):
        self.script(delta(content="ok"), end())
        numbers = {"temperature": 0.3, "top_p": 0.8, "top_k": 7, "max_tokens": 9, "seed": 5}
        self.settings(system="Be brief.", **numbers)
        self.page.reload()
        self.script(delta(content="ok"), end())
        self.say("Hi")
        self.ended()
        self.assertEqual({name: self.sent[0][name] for name in numbers}, numbers)
        self.assertEqual(self.sent[0]["messages"][0], {"role": "system", "content": "Be brief."})
        self.page.get_by_role("button", name="Settings").click()
        self.page.get_by_role("button", name="Back to the defaults").click()
        self.page.keyboard.press("Escape")
        self.say("Hi")
        self.ended()
        self.assertEqual(set(self.sent[1]), {"model", "messages", "stream"})

    def test_settings_that_make_no_sense_are_not_sent(self):
        self.page.get_by_role("button", name="Settings").click()
        self.page.locator("#top_p").fill("7")
        self.page.keyboard.press("Escape")
        self.say("Hi")
        expect(self.page.locator("#settings")).to_be_visible()
        expect(self.page.locator("#top_p")).to_be_focused()
        self.assertEqual(self.sent, [])

    def test_a_conversation_lasts_as_long_as_the_tab(self):
        self.script(delta(reasoning_content="hm"), delta(content="**ok**"), end())
        self.say("Hi")
        self.ended()
        self.page.reload()
        expect(self.page.locator(".user .text")).to_have_text("Hi")
        expect(self.answer().locator("strong")).to_have_text("ok")
        expect(self.answer().locator(".note")).to_have_text("212 tokens · 48 tokens/s")
        expect(self.answer().locator("summary")).to_have_text("Thoughts")
        self.page.get_by_role("button", name="New chat").click()
        expect(self.page.locator(".turn")).to_have_count(0)
        self.page.reload()
        expect(self.page.locator("#welcome")).to_be_visible()
        self.script(delta(content="ok"), end())
        self.say("Anew")
        self.ended()
        self.assertEqual(self.sent[-1]["messages"], [{"role": "user", "content": "Anew"}])

    def test_what_got_no_answer_comes_back_to_the_box(self):
        self.script(delta(content="ok"), end())
        self.say("one")
        self.ended()
        self.script({"error": {"message": "no room"}}, status=503, content_type="application/json")
        self.say("two")
        expect(self.answer().locator(".failure")).to_be_visible()
        self.page.reload()
        expect(self.page.locator("#prompt")).to_have_value("two")
        expect(self.page.locator(".user .text")).to_have_text(["one"])

    def test_try_again_asks_for_the_last_answer_anew(self):
        self.script(delta(content="first"), end())
        self.say("Hi")
        self.ended()
        self.script(delta(content="second"), end())
        self.answer().get_by_role("button", name="Try again").click()
        expect(self.page.locator(".answer")).to_have_count(1)
        expect(self.answer().locator(".markdown")).to_have_text("second")
        self.assertEqual(self.sent[1], self.sent[0])

    def test_what_got_no_answer_is_not_sent_again(self):
        self.script({"error": {"message": "no room"}}, status=503, content_type="application/json")
        self.say("one")
        expect(self.answer().locator(".failure p")).to_have_text("no room")
        self.script(delta(content="ok"), end())
        self.say("two")
        self.ended()
        self.assertEqual(self.sent[1]["messages"], [{"role": "user", "content": "two"}])

    def test_a_model_that_is_being_loaded_is_awaited(self):
        models = "**/v1/models"
        loading = json.dumps({"error": {"message": "the model is being loaded"}})
        self.page.route(models, lambda route: route.fulfill(status=503, content_type="application/json", body=loading))
        self.page.reload()
        expect(self.page.locator("#model")).to_have_text("loading the model…")
        self.page.unroute(models)
        expect(self.page.locator("#model")).to_have_text(ALIAS)

    # ---- what an answer looks like

    def test_a_failure_within_an_answer_keeps_what_came(self):
        self.script(delta(content="half an"), {"error": {"message": "the device failed"}}, done=False)
        self.say("Hi")
        expect(self.answer().locator(".failure p")).to_have_text("the device failed")
        expect(self.answer().locator(".markdown")).to_have_text("half an")
        self.script(delta(content="half an"), done=False)
        self.answer().locator(".failure").get_by_role("button", name="Try again").click()
        expect(self.answer().locator(".failure p")).to_have_text("The connection ended before the answer did.")

    def test_thoughts_are_folded(self):
        self.script(delta(reasoning_content="a secret"), delta(content="said"), end())
        self.say("Hi")
        self.ended()
        thoughts = self.answer().locator(".thoughts .text")
        expect(thoughts).not_to_be_visible()
        self.answer().locator("summary").click()
        expect(thoughts).to_have_text("a secret")
        expect(self.answer().locator(".markdown")).to_have_text("said")

    def test_text_never_becomes_markup_of_its_own(self):
        bad = """<script>window.bad = 1</script> <img src=x onerror="window.bad = 1">
[a](javascript:window.bad=1) ![b](http://elsewhere.invalid/b.png) [c](data:text/html,x) [d](/metrics)
<javascript:window.bad=1> **<b onclick=1>** `<i>`

```html" onclick="window.bad = 1
</code></pre><script>window.bad = 1</script>
```

| <u>h</u> | x |
|---|---|
| <iframe src="http://elsewhere.invalid"> | <style>body{display:none}</style> |

<svg onload=window.bad=1>
"""
        self.script(delta(reasoning_content=bad), delta(content=bad), end())
        self.say(bad)
        self.ended()
        self.script({"error": {"message": bad}}, status=400, content_type="application/json")
        self.say(bad)
        expect(self.answer().locator(".failure")).to_be_visible()
        allowed = "ARTICLE DIV DETAILS SUMMARY SPAN BUTTON P BR STRONG CODE PRE A TABLE THEAD TBODY TR TH TD I"
        found = self.page.evaluate("[...new Set([...document.querySelectorAll('#chat *')].map(e => e.tagName))]")
        self.assertEqual(set(found) - set(allowed.split()), set())
        self.assertEqual(self.page.locator("#chat .markdown i").count(), 0)
        hrefs = self.page.evaluate("[...document.querySelectorAll('#chat a')].map(a => a.getAttribute('href'))")
        self.assertEqual(hrefs, ["http://elsewhere.invalid/b.png", "http://elsewhere.invalid"])
        handlers = self.page.evaluate(
            "[...document.querySelectorAll('#chat *')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))")
        self.assertEqual(handlers, [])
        self.assertIsNone(self.page.evaluate("window.bad ?? null"))
        self.assertIn("<script>window.bad = 1</script>", self.page.locator(".markdown").first.inner_text())

    def test_the_policy_leaves_no_way_in(self):
        policy = self.page.request.get(self.server.url).headers["content-security-policy"]
        self.assertNotIn("unsafe", policy)
        refused = self.page.evaluate("""() => {
            try { document.body.innerHTML = "<b>"; return false; } catch { return true; }
        }""")
        self.assertTrue(refused, "innerHTML is closed to the page itself")
        self.problems.clear()  # the console told it

    def test_markdown(self):
        text = """# Head

A *soft* and a **hard** word, `code`, ~~gone~~, 2 * 3 * 4, snake_case_name, <https://a.example/x_(y)>.

1. one
   - in one
   - also

   more of one
2. two
- other

> said
> twice

```rust
fn main() { let a = "*"; }
```
| a | b |
|:--|--:|
| 1 | 2 \\| 3 |

---
[link](https://b.example/ "title") and \\*stars\\*"""
        self.script(*(delta(content=piece) for piece in re.findall(r"(?s).{1,3}", text)), end())
        self.say("Hi")
        self.ended()
        body = self.answer().locator(".markdown")
        tree = body.evaluate("""body => {
            const tree = node => node.nodeType === 3 ? node.data
                : node.tagName.toLowerCase() + "(" + [...node.childNodes].map(tree).join(" ") + ")";
            return [...body.childNodes].map(tree);
        }""")
        self.assertEqual(tree, [
            "h3(Head)",
            "p(A  em(soft)  and a  strong(hard)  word,  code(code) ,  del(gone) , 2 * 3 * 4, snake_case_name, "
            " a(https://a.example/x_(y)) .)",
            "ol(li(one ul(li(in one) li(also)) p(more of one)) li(two))",
            "ul(li(other))",
            "blockquote(p(said br() twice))",
            'div(div(span(rust) button(Copy)) pre(code(fn main() { let a = "*"; })))',
            "div(table(thead(tr(th(a) th(b))) tbody(tr(td(1) td(2 | 3)))))",
            "hr()",
            "p(a(link)  and *stars*)",
        ])

    def test_text_that_is_hard_to_read_is_read_fast(self):
        for hard in ["> " * 20000, "- " * 20000, "*" * 40000, "**a " * 10000, "[" * 40000, "`" * 20000 + "a",
                     "[a](" * 10000, "|" * 30000 + "\n" + "|-" * 15000, "_a" * 20000, " " * 40000 + "x", "<http" * 8000]:
            took = self.page.evaluate("""async text => {
                const { show } = await import("/page/markdown.js");
                const began = performance.now();
                show(document.createElement("div"), text);
                return performance.now() - began;
            }""", hard)
            self.assertLess(took, 5000, hard[:10])

    def test_copying(self):
        self.script(delta(content="See **this**:\n\n```\na < b\n```\n"), end())
        self.say("Hi there")
        self.ended()
        clipboard = lambda: self.page.evaluate("navigator.clipboard.readText()")
        self.answer().locator(".below .copy").click()
        expect(self.answer().locator(".below .copy")).to_have_text("Copied")
        self.assertEqual(clipboard(), "See **this**:\n\n```\na < b\n```\n")
        self.answer().locator(".code .copy").click()
        expect(self.answer().locator(".code .copy")).to_have_text("Copied")
        self.assertEqual(clipboard(), "a < b")
        self.page.locator(".user").hover()
        self.page.locator(".user .copy").click()
        expect(self.page.locator(".user .copy")).to_have_text("Copied")
        self.assertEqual(clipboard(), "Hi there")

    def test_dark_and_light_can_be_read(self):
        backs = []
        for scheme in ["light", "dark"]:
            self.open(color_scheme=scheme)
            self.script(delta(reasoning_content="hm"), delta(content="[a](https://a.example)\n\n> b\n\n```c\nd\n```"), end())
            self.say("Hi")
            self.ended()
            self.script({"error": {"message": "no"}}, status=400, content_type="application/json")
            self.say("Hi")
            expect(self.answer().locator(".failure")).to_be_visible()
            for what in [".user .text", ".markdown a", ".markdown blockquote", ".code-head", ".code code", ".note",
                         "summary", ".failure p", "#model", "#keys", "#clear", "h1"]:
                colour, back = self.page.locator(what).first.evaluate("""node => {
                    const colour = getComputedStyle(node).color;
                    const clear = "rgba(0, 0, 0, 0)";
                    while (node.parentElement && getComputedStyle(node).backgroundColor === clear) node = node.parentElement;
                    return [colour, getComputedStyle(node).backgroundColor];
                }""")
                self.assertGreater(contrast(colour, back), 4.5, f"{what} in {scheme}: {colour} on {back}")
            backs.append(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        self.assertGreater(contrast(*backs), 10)

    def test_a_narrow_window_holds_everything(self):
        self.open(viewport={"width": 320, "height": 480})
        wide = "| a | b |\n|---|---|\n| " + "word" * 40 + " | x |\n\n```\n" + "c" * 300 + "\n```\n" + "w" * 300
        self.script(delta(content=wide), end())
        self.say("u" * 300)
        self.ended()
        self.assertLessEqual(self.page.evaluate("document.documentElement.scrollWidth"), 320)
        self.assertLessEqual(self.page.evaluate("document.getElementById('chat').scrollWidth"), 320)
        for name in ["New chat", "Settings", "Send"]:
            box = self.page.get_by_role("button", name=name, exact=True).bounding_box()
            self.assertTrue(0 <= box["x"] and box["x"] + box["width"] <= 320 and box["y"] + box["height"] <= 480, name)
        self.settings(temperature=1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
