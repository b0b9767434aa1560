// What the page asks the server for, and what comes back.

/** A failure in words for the user; the server's own where it sent any. */
export class Failure extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const headers = key => ({
  "content-type": "application/json",
  ...(key ? { authorization: "Bearer " + key } : {}),
});

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({})) ?? {};
  const message = error?.message ?? `The server answered with status ${response.status}.`;
  throw new Failure(message, response.status, error?.code);
}

/** The model that the server has, as `/v1/models` lists it. */
export async function model(key) {
  const response = await ask("v1/models", { headers: headers(key) });
  return (await response.json()).data[0];
}

/** The chunks of an answer to `body`, until its end, a failure, or `signal`. */
export async function* answer(body, key, signal) {
  const options = { method: "POST", headers: headers(key), body: JSON.stringify(body), signal };
  const response = await ask("v1/chat/completions", options);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message, 0, chunk.error.code);
    yield chunk;
  }
  throw new Failure("The connection ended before the answer did.");
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(error => {
      if (error.name === "AbortError") throw error;
      throw new Failure("The connection to the server was lost.");
    });
    if (done) return;
    const frames = (rest + value).split(/\r?\n\r?\n/);
    rest = frames.pop();
    for (const frame of frames) {
      const lines = frame.split(/\r?\n/).filter(line => line.startsWith("data:"));
      if (lines.length) yield lines.map(line => line.slice(5).trimStart()).join("\n");
    }
  }
}
