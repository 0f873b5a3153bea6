// node v1.mjs URL TURNS: plays the story with the JavaScript SDK of A2A 1.0.
import { CancelTaskRequest, GetTaskRequest, ListTasksRequest, SendMessageRequest, StreamResponse, Task } from "a2a-js-1";
import { ClientFactory } from "a2a-js-1/client";
import { play } from "./story.mjs";

const client = await new ClientFactory().createFromUrl(process.argv[2]);
const card = await client.getAgentCard();

const KINDS = { task: "task", message: "message", statusUpdate: "status-update", artifactUpdate: "artifact-update" };

function request({ parts, ...message }) {
  return SendMessageRequest.fromJSON({ message: { ...message, role: "ROLE_USER", parts: parts.map((text) => ({ text })) } });
}

function plain(task) {
  return inWordsOf03({ artifacts: [], history: [], ...Task.toJSON(task) });
}

function inWordsOf03(json) {
  return JSON.parse(JSON.stringify(json), (key, value) =>
    key === "state" ? value.replace("TASK_STATE_", "").toLowerCase().replace("_", "-")
    : key === "role" ? value.replace("ROLE_", "").toLowerCase()
    : value);
}

await play({
  card: { name: card.name, skill: card.skills[0].id, streaming: card.capabilities.streaming },
  send: async (message) => plain(await client.sendMessage(request(message))),
  stream: async function* (message) {
    for await (const event of client.sendMessageStream(request(message))) {
      const [[kind, value]] = Object.entries(inWordsOf03(StreamResponse.toJSON(event)));
      yield { ...value, kind: KINDS[kind] };
    }
  },
  get: async (id, historyLength) => plain(await client.getTask(GetTaskRequest.fromJSON({ id, historyLength }))),
  cancel: async (id) => plain(await client.cancelTask(CancelTaskRequest.fromJSON({ id }))),
  list: async (contextId) => (await client.listTasks(ListTasksRequest.fromJSON({ contextId }))).tasks.map(plain),
});
