/* An empty plugin: makes nothing, and answers with a valid result. Reads neither its configuration nor anything else. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL ? value : "";
}

int main(void)
{
    const char *verb = variable("CNI_COMMAND");
    if (strcmp(verb, "ADD") == 0) {
        printf("{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"%s\", \"sandbox\": \"%s\"}], "
               "\"ips\": [{\"address\": \"192.0.2.2/24\", \"interface\": 0}]}\n",
               variable("CNI_IFNAME"), variable("CNI_NETNS"));
    } else if (strcmp(verb, "VERSION") == 0) {
        puts("{\"cniVersion\": \"1.0.0\", \"supportedVersions\": [\"0.3.1\", \"1.0.0\"]}");
    }
    return EXIT_SUCCESS;
}
