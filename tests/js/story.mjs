// The story that every client plays: one call in one context, answered and streamed, and one that is cancelled.
// Each version brings its own `client`, which answers in the words of A2A 0.3, so that the outcomes can be compared.
import { randomUUID } from "node:crypto";

// As tests/client_story.py tells it: intent, words, and whether the turn is streamed.
const TURNS = JSON.parse(process.argv[3]);

export async function play(client) {
  const { turns, task } = await wholeCall(client);
  const outcome = {
    card: client.card,
    turns,
    shortened: (await client.get(task.id, 2)).history.map(textOf),
    history: (await client.get(task.id)).history.map((message) => [message.role, textOf(message)]),
    ended: await refusal(client.send(message("greeting", "Hello again", task))),
    cancelled: await cancelledCall(client),
  };
  if (client.list) {
    const tasks = await client.list(task.contextId);
    outcome.listed = tasks.map(({ id, status }) => [id === task.id, status.state]);
  }
  console.log(JSON.stringify(outcome));
}

async function wholeCall(client) {
  const turns = [];
  let task;
  for (const [intent, text, streamed] of TURNS) {
    const said = message(intent, text, task);
    const events = streamed ? await collect(client.stream(said)) : null;
    const now = streamed ? await client.get(task.id) : await client.send(said);
    const same = !task || (now.id === task.id && now.contextId === task.contextId);
    turns.push({ ...told(now), same, events });
    task = now;
  }
  return { turns, task };
}

async function cancelledCall(client) {
  const task = await client.send(message("greeting", "Hello"));
  const { status } = await client.cancel(task.id);
  return [status.state, await refusal(client.cancel(task.id)), await refusal(client.get("no-such-task"))];
}

function message(intent, text, task) {
  return {
    messageId: randomUUID(),
    parts: [text],
    contextId: task?.contextId,
    taskId: task?.id,
    metadata: { intent, account_id: "ACC-1", eci: "ECI-7" },
  };
}

async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(inShort(event));
  return events;
}

function inShort({ kind, status, artifact }) {
  return artifact ? [kind, artifact.artifactId.split("-")[0], textOf(artifact)] : [kind, status.state];
}

function told({ status, artifacts }) {
  return { state: status.state, said: status.message ? textOf(status.message) : null, made: artifacts.map(textOf) };
}

function textOf({ parts }) {
  return parts.map((part) => part.text ?? "").join("");
}

async function refusal(request) {
  try {
    await request;
    return "not refused";
  } catch (error) {
    return error.name;
  }
}
