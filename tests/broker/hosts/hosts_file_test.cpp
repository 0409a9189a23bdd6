// What hosts files say, and how they are refused: docs/hosts.md.
#include "broker/hosts/hosts_file.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#include "broker/hosts/host_text.hpp"
#include "broker/hosts/plugin.hpp"
#include "broker/nodes/plugin_files.hpp"
#include "tests/support/child.hpp"

namespace muster {
namespace {

std::vector<Host> parse(const std::string& text) {
  return parse_hosts(text, "h.toml", "/etc/pool");
}

std::string complaint(const std::string& text, const std::string& folder = "/etc/pool") {
  try {
    parse_hosts(text, "h.toml", folder);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "(accepted)";
}

std::string short_complaint(const std::string& text) {
  try {
    parse_short_host(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "(accepted)";
}

TEST(HostsFile, ShortForms) {
  const auto hosts =
      parse(R"(hosts = ["node1", "ada@node2:2222*8", "[::1]:22*2", "ada@10.0.0.7"])");
  ASSERT_EQ(hosts.size(), 4U);
  EXPECT_EQ(hosts[0], (Host{.name = "node1", .address = "node1"}));
  EXPECT_EQ(hosts[1],
            (Host{.name = "node2", .address = "node2", .user = "ada", .port = 2222, .slots = 8}));
  EXPECT_EQ(hosts[2], (Host{.name = "::1", .address = "::1", .port = 22, .slots = 2}));
  EXPECT_EQ(hosts[3], (Host{.name = "10.0.0.7", .address = "10.0.0.7", .user = "ada"}));
  EXPECT_EQ(parse_short_host("ada@node2:2222*8"), hosts[1]);
  EXPECT_EQ(parse_short_host("a@b@node").user, "a@b");
}

TEST(HostsFile, EveryKey) {
  ::setenv("HOME", "/home/ada", 1);
  const auto hosts = parse(R"([[host]]
name = "gpu"
address = "gpu.example.org"
user = "ada"
port = 2222
identity = "~/.ssh/pool"
jump = "bob@gate:2200,inner"
known_hosts = "known"
ssh_config = "/etc/ssh/other"
via = "openssh"
reverse_port = 7001
connect_timeout = 5
standing = true
slots = 4
executor = "thread"
labels = ["gpu", "big"]
environment = { A = "1", B = "x y" }
directory = "~/work"
curve = true
orphan_grace = 0
python = "3.11"
pip = ["numpy==1.24.2"]
wheels = "../wheels"
includes = ["tasks.py", "/srv/lib"]
nice = 19
max_cores = 6
max_memory = "8GB"
pause_load = 1.5
[[host]]
address = "installed"
worker = "/opt/muster-worker"
python = "/opt/python3"
)");
  ASSERT_EQ(hosts.size(), 2U);
  const Host expected{.name = "gpu",
                      .address = "gpu.example.org",
                      .user = "ada",
                      .port = 2222,
                      .identity = "/home/ada/.ssh/pool",
                      .jump = "bob@gate:2200,inner",
                      .known_hosts = "/etc/pool/known",
                      .ssh_config = "/etc/ssh/other",
                      .via = Via::openssh,
                      .reverse_port = 7001,
                      .connect_timeout = std::chrono::seconds(5),
                      .standing = true,
                      .slots = 4,
                      .executor = "thread",
                      .labels = {"gpu", "big"},
                      .environment = {{"A", "1"}, {"B", "x y"}},
                      .directory = "~/work",
                      .curve = true,
                      .orphan_grace = std::chrono::seconds(0),
                      .python = "3.11",
                      .pip = {"numpy==1.24.2"},
                      .wheels = "/etc/wheels",
                      .includes = {"/etc/pool/tasks.py", "/srv/lib"},
                      .nice = 19,
                      .max_cores = 6,
                      .max_memory_bytes = std::uint64_t{8} << 30,
                      .pause_load = 1.5};
  EXPECT_EQ(hosts[0], expected);
  EXPECT_EQ(hosts[1], (Host{.name = "installed",
                            .address = "installed",
                            .worker = "/opt/muster-worker",
                            .python = "/opt/python3"}));
}

TEST(HostsFile, DefaultsHoldForAllThatDoNotSayOtherwise) {
  const auto hosts = parse(R"(hosts = ["node1", "bob@node2*8"]
[defaults]
user = "ada"
slots = 2
labels = ["cpu"]
environment = { A = "1", B = "2" }
[[host]]
address = "node3:2200"
slots = 3
labels = []
environment = { B = "3", C = "4" }
)");
  ASSERT_EQ(hosts.size(), 3U);
  EXPECT_EQ(hosts[0].user, "ada");
  EXPECT_EQ(hosts[0].slots, 2U);
  EXPECT_EQ(hosts[1].user, "bob");
  EXPECT_EQ(hosts[1].slots, 8U);
  EXPECT_EQ(hosts[1].labels, std::vector<std::string>{"cpu"});
  EXPECT_EQ(hosts[2].address, "node3");
  EXPECT_EQ(hosts[2].port, 2200);
  EXPECT_EQ(hosts[2].slots, 3U);
  EXPECT_TRUE(hosts[2].labels.empty());
  const std::vector<std::pair<std::string, std::string>> merged = {
      {"A", "1"}, {"B", "3"}, {"C", "4"}};
  EXPECT_EQ(hosts[2].environment, merged);
}

TEST(HostsFile, Memory) {
  EXPECT_EQ(parse_memory("8GB"), std::uint64_t{8} << 30);
  EXPECT_EQ(parse_memory("8 GiB"), std::uint64_t{8} << 30);
  EXPECT_EQ(parse_memory("512m"), std::uint64_t{512} << 20);
  EXPECT_EQ(parse_memory("1.5k"), 1536U);
  EXPECT_EQ(parse_memory("123456789"), 123456789U);
  for (const char* text :
       {"", "GB", "8XB", "-1GB", "nan", "inf", "8GBB", "1e9", "9999999999TB", "8iB"}) {
    EXPECT_THROW(parse_memory(text), std::invalid_argument) << text;
  }
}

struct Fault {
  const char* text;
  const char* where;  // LINE:COLUMN
  const char* what;   // part of the message
};

class HostsFileFault : public ::testing::TestWithParam<Fault> {};

TEST_P(HostsFileFault, NamesPlaceAndKey) {
  const std::string said = complaint(GetParam().text);
  EXPECT_TRUE(said.starts_with(std::string("h.toml:") + GetParam().where + ": ")) << said;
  EXPECT_NE(said.find(GetParam().what), std::string::npos) << said;
}

INSTANTIATE_TEST_SUITE_P(
    All, HostsFileFault,
    ::testing::Values(
        Fault{"hosts = [\"a\"", "1:13", ""},  // TOML itself
        Fault{"hosts = [\"a\"]\nhosts = [\"b\"]", "2:9", ""}, Fault{"", "1:1", "no host is named"},
        Fault{"hosts = []", "1:1", "no host is named"},
        Fault{"hots = [\"a\"]", "1:1", "did you mean 'hosts'?"},
        Fault{"slots = 2\nhosts = [\"a\"]", "1:1", "[defaults]"},
        Fault{"[[host]]\naddress = \"a\"\nslotz = 4", "3:1", "did you mean 'slots'?"},
        Fault{"[[host]]\naddress = \"a\"\nidentiy = \"k\"", "3:1", "did you mean 'identity'?"},
        Fault{"[[host]]\naddress = \"a\"\nxyzzyx = 4", "3:1", "known are"},
        Fault{"[defaults]\nslot = 4\n", "2:1", "did you mean 'slots'?"},
        Fault{"[defaults]\nname = \"a\"", "2:1", "each host's own"},
        Fault{"defaults = 3", "1:12", "[defaults]"},
        Fault{"[host]\naddress = \"a\"", "1:1", "[[host]]"},
        Fault{"[[hosts]]\naddress = \"a\"", "1:1", "[[host]]"},
        Fault{"hosts = \"a\"", "1:9", "list"},
        Fault{"[[host]]\nuser = \"ada\"", "1:1", "no address"},
        Fault{"[[host]]\naddress = 7", "2:11", "address must be a text"},
        Fault{"[[host]]\naddress = \"a\"\nslots = \"4\"", "3:9", "slots must be a whole number"},
        Fault{"[[host]]\naddress = \"a\"\nslots = 0", "3:9", "between 1 and 65536"},
        Fault{"[[host]]\naddress = \"a\"\nslots = 65537", "3:9", "between 1 and 65536"},
        Fault{"[[host]]\naddress = \"a\"\nport = 65536", "3:8", "between 1 and 65535"},
        Fault{"[[host]]\naddress = \"a\"\nnice = 20", "3:8", "between 0 and 19"},
        Fault{"[[host]]\naddress = \"a\"\nstanding = 1", "3:12", "true or false"},
        Fault{"[[host]]\naddress = \"a\"\nstanding = true", "1:1", "reverse_port"},
        Fault{"[[host]]\naddress = \"a\"\nvia = \"ssh\"", "3:7", "\"libssh\" or \"openssh\""},
        Fault{"[[host]]\naddress = \"a\"\nexecutor = \"fork\"", "3:12",
              "\"process\" or \"thread\""},
        Fault{"[[host]]\naddress = \"a\"\npython = 3.11", "3:10", "python = \"3.11\""},
        Fault{"[[host]]\naddress = \"a\"\npython = \"three\"", "3:10", "version like"},
        Fault{"[[host]]\naddress = \"a\"\npip = \"numpy\"", "3:7", "must be a list"},
        Fault{"[[host]]\naddress = \"a\"\npip = [\"-r x\"]", "3:8", "option of pip"},
        Fault{"[[host]]\naddress = \"a\"\nplugins = \"x.so\"", "3:11", "must be a list"},
        Fault{"[[host]]\naddress = \"a\"\nplugins = [\"no.so\"]", "3:12",
              "no file '/etc/pool/no.so'"},
        Fault{"[defaults]\nplugins = [\"/etc\"]", "2:12", "'/etc' is not a file"},
        Fault{"[[host]]\naddress = \"a\"\nworker = \"/w\"\npip = [\"joblib\"]", "4:7",
              "pip is for the worker that is uploaded"},
        Fault{"[defaults]\nwheels = \"/w\"\n[[host]]\naddress = \"a\"\nworker = \"/w\"", "5:10",
              "wheels is for the worker that is uploaded"},
        Fault{"hosts = [\"a\"]\n[defaults]\nwheels = \"/w\"\nworker = \"/w\"", "1:10",
              "wheels is for the worker that is uploaded"},
        Fault{"[[host]]\naddress = \"a\"\nlabels = [\"\"]", "3:11", "is empty"},
        Fault{"[[host]]\naddress = \"a\"\nlabels = [\"x\", 1]", "3:16", "text in quotes"},
        Fault{"[[host]]\naddress = \"a\"\nenvironment = { A = 1 }", "3:21", "environment.A"},
        Fault{"[[host]]\naddress = \"a\"\nenvironment = [\"A=1\"]", "3:15", "must be a table"},
        Fault{"[[host]]\naddress = \"a\"\nenvironment = { \"A=\" = \"1\" }", "3:17", "variable"},
        Fault{"[[host]]\naddress = \"a\"\nmax_memory = \"lots\"", "3:14", "\"8GB\""},
        Fault{"[[host]]\naddress = \"a\"\nmax_memory = 8", "3:14", "less than 1 MB"},
        Fault{"[[host]]\naddress = \"a\"\npause_load = -1", "3:14", "0 or more"},
        Fault{"[[host]]\naddress = \"a\"\npause_load = nan", "3:14", "0 or more"},
        Fault{"[[host]]\naddress = \"a\"\nidentity = \"~bob/key\"", "3:12", "another user's"},
        Fault{"[[host]]\naddress = \"a\"\njump = \"x,,y\"", "3:8", "address is empty"},
        Fault{"[[host]]\naddress = \"a\"\nname = \"a b\"", "3:8", "letters"},
        Fault{"[[host]]\naddress = \"a:1\"\nport = 2", "3:8", "said by address already"},
        Fault{"hosts = [\"a\", \"b\",\n \"u@a\"]", "2:2", "taken by the host in line 1"},
        Fault{"hosts = [\"a\"]\n[[host]]\naddress = \"b\"\nname = \"a\"", "2:1", "'a' is taken"},
        Fault{"hosts = [\"::1\"]", "1:10", "brackets: '[::1]'"},
        Fault{"hosts = [\"-oProxyCommand=x\"]", "1:10", "option"},
        Fault{"hosts = [\"-l@a\"]", "1:10", "option"}, Fault{"hosts = [\"a b\"]", "1:10", "' '"},
        Fault{"hosts = [\"a\\u001b[2J\"]", "1:10", "control character"},
        Fault{"hosts = [\"a\\u0000b\"]", "1:10", "NUL"},
        Fault{"hosts = [\"a;reboot\"]", "1:10", "';'"},
        Fault{"hosts = [\"$(x)@a\"]", "1:10", "'$'"}));

TEST(HostsFile, ShortFormsThatAreRefused) {
  for (const char* text :
       {"",    "@a",      "a:",    "a:0",     "a:65536", "a:x",      "a*",   "a*0",
        "a*x", "a*65537", "[::1",  "[::1]22", "[node]",  "a/b",      "a'b",  "a\"b",
        "a`b", "a\nb",    "u v@a", "*4",      ":22",     "a:22:33x", "a:+22"}) {
    EXPECT_NE(short_complaint(text), "(accepted)") << text;
  }
}

TEST(HostsFile, RelativePathsNeedAFile) {
  const std::string text = "[[host]]\naddress = \"a\"\nidentity = \"key\"";
  EXPECT_NE(complaint(text, "").find("absolute"), std::string::npos);
  EXPECT_EQ(complaint(text), "(accepted)");
}

TEST(HostsFile, PluginsAreWhatTheyWereWhenTheyWereRead) {
  const testing::TemporaryFolder folder;
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(folder.path(name)) << text;
  };
  const auto read = [&] {
    return parse_hosts(
        "hosts = [\"n1\"]\n[defaults]\nplugins = [\"a.so\", \"./b c.so\", \"a.so\"]\n"
        "[[host]]\naddress = \"n2\"\nplugins = [\"a.so\"]\n"
        "[[host]]\naddress = \"n3\"\nplugins = []\n",
        "h.toml", folder.path("."));
  };
  write("a.so", "abc");
  write("b c.so", "other");
  const auto hosts = read();
  ASSERT_EQ(hosts[0].plugins.size(), 2U);
  EXPECT_EQ(hosts[0].plugins[0].digest, "ba7816bf8f01cfea414140de5dae2223");  // SHA-256 of "abc"
  EXPECT_EQ(place_of(hosts[0].plugins[0]), "ba7816bf8f01cfea414140de5dae2223/a.so");
  EXPECT_TRUE(place_of(hosts[0].plugins[1]).ends_with("/b_c.so"));
  EXPECT_EQ(hosts[1].plugins, std::vector<Plugin>{hosts[0].plugins[0]});
  EXPECT_TRUE(hosts[2].plugins.empty());
  write("a.so", "abcd");
  EXPECT_NE(read()[1], hosts[1]);  // so that its worker is replaced
  EXPECT_EQ(read()[2], hosts[2]);
}

// What a message quotes stays short, on one line, and holds no value of a variable.
TEST(HostsFile, ComplaintsAreFitToPrint) {
  const std::string wide = complaint("hosts = [\"" + std::string(100'000, 'x') + "\"]");
  EXPECT_LT(wide.size(), 400U);
  const std::string secret =
      complaint("[[host]]\naddress = \"a\"\nenvironment = { T = [\"hush\"] }");
  EXPECT_EQ(secret.find("hush"), std::string::npos) << secret;
  for (const char c : complaint("[[host]]\naddress = \"a\"\nvia = \"a\\u001b\\nb\"")) {
    EXPECT_GE(static_cast<unsigned char>(c), 0x20U);
  }
}

}  // namespace
}  // namespace muster
