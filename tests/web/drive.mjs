// Drives a real browser through the web page: `drive.mjs PART`, with what it needs in the environment
// (see tests/tests/web.rs). Whatever is not as a user should see it ends it with an error.
import { createRequire } from "node:module";
import { strict as assert } from "node:assert";
import { createServer, request } from "node:http";
import { existsSync, mkdirSync, readFileSync } from "node:fs";

const { PACKAGES, BROWSER, URL: ORIGIN, OPERATOR, VIEWER, ADMIN, BRIEF, BACKUP, JOB, SHOTS, ROOT, RESTARTED, PASSWORD } = process.env;
// Below which the page is: everything here goes by it.
const BASE = new URL(ORIGIN).pathname;
const require = createRequire(`${PACKAGES}/`);
const { chromium } = require("playwright-core");
const AXE = require.resolve("axe-core/axe.min.js");
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"];

const browser = await chromium.launch({ executablePath: BROWSER, args: FLAGS });

/** A page of a new browser profile; what its console complains of is a fault. */
async function fresh(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.faults = [];
  page.on("console", (message) => {
    // A page that was refused is refused on purpose here.
    if (message.type() === "error" && !/status of (400|401|403)/.test(message.text())) {
      page.faults.push(message.text());
    }
  });
  page.on("pageerror", (error) => page.faults.push(String(error)));
  return page;
}

async function signIn(page, token, to = "/") {
  await page.goto(ORIGIN + to);
  await enter(page, token);
}

/** By an API token, at the sign-in: the form is folded where people have passwords. */
async function enter(page, token) {
  const form = page.locator("form", { has: page.locator("#token") });
  if (!(await page.getByLabel("API token").isVisible())) {
    await page.getByText("Sign in with an API token").click();
  }
  await page.getByLabel("API token").fill(token);
  await form.getByRole("button", { name: "Sign in" }).click();
}

async function byPassword(page, name, password) {
  await page.goto(`${ORIGIN}/`);
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.keyboard.press("Enter");
}

/** Looks with axe, at the widths of a phone and of a desk. */
async function accessible(page) {
  for (const width of [360, 1440]) {
    await page.setViewportSize({ width, height: 900 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= width, `${page.url()} is ${wide} wide at ${width}`);
    const client = await page.context().newCDPSession(page);
    // Through the debugger: the page's policy lets no foreign script in.
    await client.send("Runtime.evaluate", { expression: readFileSync(AXE, "utf8") });
    const found = await client.send("Runtime.evaluate", {
      expression: "axe.run().then((r) => JSON.stringify(r.violations.map((v) => [v.id, v.nodes.map((n) => n.html + n.failureSummary)])))",
      awaitPromise: true, returnByValue: true,
    });
    assert.equal(found.result.value, "[]", `${page.url()} at ${width}`);
  }
}

/** A small reverse proxy, as an Ingress that takes the path away. */
async function proxy() {
  const inner = new URL(ORIGIN);
  const server = createServer((asked, answer) => {
    if (!asked.url.startsWith(`${BASE}/`)) { answer.writeHead(404).end(); return; }
    const path = asked.url.slice(BASE.length);
    const { method, headers } = asked;
    const passed = request({ host: inner.hostname, port: inner.port, path, method, headers }, (inside) => {
      answer.writeHead(inside.statusCode, inside.headers);
      inside.pipe(answer);
    });
    passed.on("error", () => answer.destroy());
    asked.pipe(passed);
  });
  await new Promise((listens) => server.listen(0, "localhost", listens));
  return server;
}

/** What a picture shows are the folders of a user's system, not those of a test. */
async function asAtAUsers(page) {
  await page.evaluate((root) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode;
      text.data = text.data.replaceAll(`${root}/data`, "/srv").replaceAll(root, "/opt/neurashield")
        .replaceAll("test-agent", "node-1");
    }
  }, ROOT);
}

async function ended(page) {
  await page.locator(".verdict:not(.busy)").waitFor({ timeout: 60_000 });
}

/** Orders a restore of one component, through its plan and the typed confirmation. */
async function restore(page, component) {
  await page.getByLabel(component).check();
  await page.getByRole("button", { name: "Show the plan" }).click();
  await page.getByLabel("To confirm").fill(BACKUP);
  await page.getByRole("button", { name: "Restore", exact: true }).click();
  await page.locator(".verdict").waitFor();
}

const parts = {
  async restore() {
    const page = await fresh();
    await signIn(page, "nsat-wrong");
    await page.getByRole("alert").getByText("the token is not accepted").waitFor();
    await accessible(page);
    // By the keyboard alone, and with as little motion as was asked for.
    await page.emulateMedia({ reducedMotion: "reduce" });
    await page.getByLabel("API token").focus();
    await page.keyboard.insertText(OPERATOR);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "Everything could be restored today" }).waitFor();
    await accessible(page);
    const moving = await page.evaluate(() => document.getAnimations().length);
    assert.equal(moving, 0, "nothing moves");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "To the content");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Restore…");
    await page.keyboard.press("Enter");
    const chosen = await page.getByLabel("From which backup").inputValue();
    assert.equal(chosen, BACKUP, "the newest verified one is chosen");
    for (const component of ["models", "configs"]) { await page.getByLabel(component).check(); }
    await accessible(page);
    await page.getByRole("button", { name: "Show the plan" }).click();
    await page.getByText(`nsctl restore --timestamp ${BACKUP} --components`).waitFor();
    await accessible(page);
    await page.getByLabel("To confirm").fill("yes");
    await page.getByRole("button", { name: "Restore", exact: true }).click();
    await page.getByText("nothing was changed").waitFor();
    await page.getByLabel("To confirm").fill(BACKUP);
    await page.getByRole("button", { name: "Restore", exact: true }).click();
    await ended(page);
    await page.getByText("Restored. What was there before can be brought back.").waitFor();
    await page.reload();
    await page.getByText("Restored.").waitFor();
    await accessible(page);
    assert.deepEqual(page.faults, []);
    console.log(`JOB ${page.url().split("/").pop()}`);
  },

  async undo() {
    const brief = await fresh();
    if (BRIEF) {
      await signIn(brief, BRIEF);
      await brief.getByRole("heading", { level: 2, name: "Components" }).waitFor();
    }
    const page = await fresh();
    await signIn(page, OPERATOR, `/jobs/${JOB}`);
    await page.getByRole("button", { name: "Take it back…" }).click();
    const name = await page.locator("label[for=confirm] code").innerText();
    await page.getByLabel("To confirm").fill(name);
    await page.getByRole("button", { name: "Take it back" }).click();
    await ended(page);
    await page.getByText("The restore was taken back.").waitFor();
    assert.deepEqual(page.faults, []);

    // A viewer sees, and is refused by page and controller alike.
    const viewer = await fresh();
    await signIn(viewer, VIEWER);
    await viewer.getByRole("heading", { level: 1 }).waitFor();
    assert.equal(await viewer.getByRole("navigation").getByRole("link", { name: "Restore" }).count(), 0);
    const key = await viewer.locator("input[name=key]").first().inputValue();
    const form = `key=${key}&backup=${BACKUP}&component=models`;
    const post = (page, path, body) => page.evaluate(async ([path, body]) => {
      const headers = { "content-type": "application/x-www-form-urlencoded" };
      const answer = await fetch(path, { method: "POST", body, headers });
      return [answer.status, await answer.text()];
    }, [path, body]);
    const [status, text] = await post(viewer, `${BASE}/restore/plan`, form);
    assert.equal(status, 403);
    assert.match(text, /role viewer of this token is not enough/);
    const [without, said] = await post(page, `${BASE}/restore/plan`, `backup=${BACKUP}&component=models`);
    assert.equal(without, 403);
    assert.match(said, /form is of another session/);

    // By name and password, too; a wrong one says no more than that.
    const kim = await fresh();
    for (const [name, password] of [["kim", "wrong horse 1"], ["lee", PASSWORD], ["kim", ""]]) {
      await byPassword(kim, name, password);
      if (password) {
        await kim.getByRole("alert").getByText("the name or the password is not accepted").waitFor();
      }
      assert.equal(await kim.getByRole("navigation").count(), 0);
    }
    await accessible(kim);
    await byPassword(kim, "kim", PASSWORD);
    await kim.getByRole("heading", { level: 2, name: "Components" }).waitFor();
    assert.equal(await kim.getByRole("navigation").getByRole("link", { name: "Restore" }).count(), 0);
    assert.equal((await post(kim, `${BASE}/tokens`, `key=${await kim.locator("input[name=key]").first().inputValue()}&name=x&role=admin&days=1`))[0], 403);
    await kim.getByRole("button", { name: "Sign out" }).click();
    await kim.goto(`${ORIGIN}/jobs`);
    await kim.getByLabel("Password").waitFor();
    assert.deepEqual(kim.faults, []);

    // Another site (another port is one) sends a form with the browser that is signed in.
    await page.route("http://evil.localhost/**", (route) => route.fulfill({
      contentType: "text/html",
      body: `<form method="post" action="${ORIGIN}/backups/start"><button>go</button></form>`,
    }));
    await page.goto("http://evil.localhost/");
    const answer = page.waitForResponse((response) => response.url().endsWith("/backups/start"));
    await page.getByRole("button", { name: "go" }).click();
    assert.equal((await answer).status(), 403);

    // Behind a proxy that takes the path away, links, forms, the cookie and the events of a job work, too.
    const server = await proxy();
    const outside = `http://localhost:${server.address().port}${BASE}`;
    const guestOfProxy = await fresh();
    await guestOfProxy.goto(`${outside}/jobs/${JOB}`);
    await enter(guestOfProxy, OPERATOR);
    await guestOfProxy.locator("#log", { hasText: "restore complete" }).waitFor();
    assert.equal(guestOfProxy.url(), `${outside}/jobs/${JOB}`);
    await guestOfProxy.getByRole("link", { name: "Overview" }).click();
    await guestOfProxy.getByRole("link", { name: "Restore…" }).click();
    await guestOfProxy.getByLabel("models").check();
    await guestOfProxy.getByRole("button", { name: "Show the plan" }).click();
    await guestOfProxy.getByLabel("To confirm").waitFor();
    assert.equal(guestOfProxy.url(), `${outside}/restore/plan`);
    assert.deepEqual(guestOfProxy.faults, []);
    await guestOfProxy.context().close();
    server.closeAllConnections();
    server.close();

    const admin = await fresh();
    await signIn(admin, ADMIN);
    const inside = `backups/${BACKUP}/browse?component=models&source=`;
    // In the gate, those that were met on the way.
    const all = ["", `restore?backup=${BACKUP}&component=models&path=deep`, "backups", `backups/${BACKUP}`, inside, "jobs", "agents", "schedules", "retention", "alerts", "tokens", "audit", "doctor", "backups/no"];
    for (const path of all) {
      await admin.goto(`${ORIGIN}/${path}`);
      await admin.getByRole("heading", { level: 1 }).waitFor();
      await accessible(admin);
    }
    // A file with a hostile name is listed as what it is, and comes as what it was.
    await admin.goto(`${ORIGIN}/${inside}`);
    await admin.getByRole("link", { name: "deep/" }).click();
    await admin.getByRole("cell", { name: "<b>hostile<i> & name", exact: true }).waitFor();
    const [file] = await Promise.all([
      admin.waitForEvent("download"),
      admin.getByRole("link", { name: "Download <b>hostile<i> & name" }).click(),
    ]);
    assert.deepEqual(readFileSync(await file.path()), Buffer.alloc(300_000, 7));
    // One file of it is a choice for a restore.
    await admin.getByRole("link", { name: "Restore <b>hostile<i> & name" }).click();
    assert.equal(await admin.getByLabel("Only what matches").inputValue(), "deep/<b>hostile<i> & name");
    assert.ok(await admin.getByLabel("models").isChecked());
    await admin.getByRole("button", { name: "Show the plan" }).click();
    await admin.getByText("--path 'deep/<b>hostile<i> & name'").waitFor();
    await admin.goto(`${ORIGIN}/${inside}`);
    const [tar] = await Promise.all([
      admin.waitForEvent("download"),
      admin.getByRole("link", { name: "Download all of models as tar" }).click(),
    ]);
    assert.equal(tar.suggestedFilename(), `${BACKUP}-models.tar`);
    assert.ok(readFileSync(await tar.path()).includes("<b>hostile<i> & name"));

    // A token that is made here works, until it is revoked here.
    await admin.goto(`${ORIGIN}/tokens`);
    await admin.getByLabel("Name, after who or what uses it").fill("<i>ci");
    await admin.getByRole("button", { name: "Create a token" }).click();
    const made = await admin.locator("#fresh").innerText();
    await accessible(admin);
    const guest = await fresh();
    await signIn(guest, made);
    await guest.getByRole("heading", { level: 2, name: "Components" }).waitFor();
    await admin.getByRole("button", { name: "Revoke <i>ci" }).click();
    await admin.getByRole("cell", { name: "revoked" }).waitFor();
    await guest.goto(`${ORIGIN}/jobs`);
    await guest.getByLabel("Password").waitFor();

    // An invitation comes with what is to be typed, and can be taken back.
    await admin.goto(`${ORIGIN}/agents`);
    await admin.getByLabel("Its name").fill("node-7");
    await admin.getByRole("button", { name: "Invite", exact: true }).click();
    assert.match(await admin.locator("#fresh").innerText(), /umask 077/);
    await accessible(admin);
    await admin.getByRole("button", { name: "Take back the invitation of node-7" }).click();
    await admin.getByRole("button", { name: "Take back the invitation of node-7" }).waitFor({ state: "detached" });

    // A schedule is set up, changed, paused and removed; it says when it runs in its own zone.
    await admin.goto(`${ORIGIN}/schedules`);
    await admin.getByLabel("Name").fill("weights");
    await admin.getByLabel("When").fill("30 2 * * *");
    await admin.getByLabel("Its hours are those of").fill("Europe/Paris");
    await admin.getByLabel("models").check();
    await admin.getByRole("button", { name: "Set it up" }).click();
    const schedule = admin.getByRole("row").filter({ hasText: "weights" });
    await schedule.getByText("backup of models").waitFor();
    await schedule.getByText("02:30 Europe/Paris").waitFor();
    await accessible(admin);
    await admin.getByRole("link", { name: "Change weights" }).click();
    await admin.getByLabel("When").fill("45 2 * * *");
    await admin.getByRole("button", { name: "Change it" }).click();
    await schedule.getByText("45 2 * * *").waitFor();
    await schedule.getByText("backup of models").waitFor();
    await admin.getByRole("button", { name: "Pause weights" }).click();
    await schedule.getByText("paused").waitFor();
    await admin.getByRole("button", { name: "Resume weights" }).click();
    await schedule.getByText("active").waitFor();
    await admin.getByRole("link", { name: "Remove weights" }).click();
    await admin.getByLabel("To remove it, type its name").fill("weights");
    await admin.getByRole("button", { name: "Remove it" }).click();
    await schedule.waitFor({ state: "detached" });

    // Other rules show at once what they would remove; that is another form, with a confirmation.
    await admin.goto(`${ORIGIN}/retention`);
    await admin.getByText("Other rules").click();
    await admin.getByLabel("Days").fill("14");
    await admin.getByRole("button", { name: "Set these rules" }).click();
    await admin.getByText("The newest of each day, for").waitFor();
    await admin.getByText("14 days").waitFor();

    // A day of the calendar leads to its backups.
    await admin.goto(`${ORIGIN}/backups`);
    await admin.locator(".calendar a.day").last().click();
    await admin.getByRole("link", { name: BACKUP }).waitFor();
    await admin.getByLabel("That are").selectOption("failed");
    await admin.getByText("is like that").waitFor();
    await accessible(admin);
    assert.deepEqual(admin.faults, []);
    await admin.goto(`${ORIGIN}/audit`);
    await admin.getByText("Web/SignIn").first().waitFor();
    await admin.getByRole("button", { name: "Sign out" }).click();
    await admin.goto(`${ORIGIN}/jobs`);
    await admin.getByLabel("Password").waitFor();

    // What has ended meanwhile lets nobody in any more, and says so by the sign-in.
    for (let tries = 0; BRIEF && !(await brief.getByLabel("Password").isVisible()); tries += 1) {
      assert.ok(tries < 900, "the session ends with its token");
      await brief.waitForTimeout(100);
      await brief.goto(`${ORIGIN}/backups`);
    }
    assert.deepEqual(brief.faults, []);
  },

  async restart() {
    const page = await fresh();
    await signIn(page, OPERATOR, `/restore?backup=${BACKUP}`);
    await restore(page, "ipfs");
    await page.locator(".verdict.busy").waitFor();
    const job = page.url();
    for (let tries = 0; !existsSync(RESTARTED); tries += 1) {
      assert.ok(tries < 600, "the controller comes back");
      await page.waitForTimeout(100);
    }
    // The sessions went with the controller; what was under way did not.
    await page.goto(job);
    await enter(page, OPERATOR);
    assert.equal(page.url(), job, "back at the page where one was");
    await ended(page);
    await page.getByText("Restored.").waitFor();
  },

  async failing() {
    const page = await fresh();
    await signIn(page, OPERATOR, `/restore?backup=${BACKUP}`);
    await restore(page, "blockchain");
    await ended(page);
    await page.getByText("The restore did not succeed.").waitFor();
    await page.getByText("Why: ").filter({ hasText: "news" }).waitFor();
    await page.getByText("What to do: ").waitFor();
    await accessible(page);
    assert.deepEqual(page.faults, []);
  },

  async screenshots() {
    mkdirSync(SHOTS, { recursive: true });
    for (const [name, options] of [
      ["light", { colorScheme: "light", viewport: { width: 1280, height: 800 } }],
      ["dark", { colorScheme: "dark", viewport: { width: 1280, height: 800 } }],
      ["narrow", { colorScheme: "light", viewport: { width: 390, height: 800 } }],
    ]) {
      const page = await fresh(options);
      await page.goto(ORIGIN);
      await page.screenshot({ path: `${SHOTS}/sign-in-${name}.png` });
      await signIn(page, ADMIN);
      for (const path of ["", "restore", "backups", `backups/${BACKUP}`, `backups/${BACKUP}/browse?component=models&source=`, "jobs", `jobs/${JOB}`, "schedules", "retention", "agents", "alerts", "tokens", "audit", "doctor"]) {
        await page.goto(`${ORIGIN}/${path}`);
        if (path.startsWith("jobs/")) { await page.waitForTimeout(300); }
        const file = path.replace(/^$/, "overview").replace(/.*browse.*/, "browse").replace(/^(backup|job)s\/.*/, "$1");
        if (file === "overview") { await page.getByText("looked for").waitFor(); }
        await asAtAUsers(page);
        await page.screenshot({ path: `${SHOTS}/${file}-${name}.png`, fullPage: file !== "audit" });
      }
      await page.goto(`${ORIGIN}/restore`);
      for (const component of ["models", "configs"]) { await page.getByLabel(component).check(); }
      await page.getByRole("button", { name: "Show the plan" }).click();
      await page.getByLabel("To confirm").waitFor();
      await asAtAUsers(page);
      await page.screenshot({ path: `${SHOTS}/plan-${name}.png`, fullPage: true });
    }
  },
};

try {
  await parts[process.argv[2]]();
} finally {
  await browser.close();
}
